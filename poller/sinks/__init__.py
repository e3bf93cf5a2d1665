"""
The sinks by their ``type`` in the settings.

A new one is one file and one line here: its class, with its settings model as ``settings``.
"""

from poller.sinks.activemq import ActivemqSink
from poller.sinks.directory import DirectorySink
from poller.sinks.http import HttpSink
from poller.sinks.servicenow import ServiceNowSink

SINKS = {"servicenow": ServiceNowSink, "http": HttpSink, "directory": DirectorySink, "activemq": ActivemqSink}
