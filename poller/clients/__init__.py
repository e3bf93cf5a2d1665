"""Speak a protocol, know no route: HTTP, OAuth 2, the ServiceNow Table API."""
