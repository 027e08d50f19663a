"""The command line: one file a group of commands, each command a function of its options."""
