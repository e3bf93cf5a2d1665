"""
What the commands do; `poller.cli` says what they are called and imports one of these only when it is asked for.

Each is a plain function that takes the options and returns the exit code.
"""
