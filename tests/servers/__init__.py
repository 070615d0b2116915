"""Real servers for tests: one module per server, each with fixtures, registered in tests/conftest.py.

They listen on free ports of 127.0.0.1 and end with the test session, even if it is killed.
"""
