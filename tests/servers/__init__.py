"""Real servers for tests: one module a server, each with a session fixture, registered in tests/conftest.py.

They bind 127.0.0.1 on free ports and end with the test session, also when it is killed.
"""
