"""Commands that start a stack and talk to one."""
