"""The bridge between any external system and ServiceNow: nothing lost, nothing created twice."""

__version__ = "0.1.0"
