"""The command line: parse, call a workflow, print, exit code. No logic lives here."""
