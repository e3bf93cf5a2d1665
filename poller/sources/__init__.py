"""Where records come from. A further source is one file here and one line in the table."""

from poller.sources.activemq import ActivemqSource
from poller.sources.directory import DirectorySource
from poller.sources.http import HttpSource
from poller.sources.servicenow import ServiceNowSource
from poller.sources.sql import SqlSource

#: ``type`` in the settings -> the class; its ``settings`` is the model of the table's keys.
SOURCES = {
    "http": HttpSource,
    "directory": DirectorySource,
    "sql": SqlSource,
    "servicenow": ServiceNowSource,
    "activemq": ActivemqSource,
}
