"""``python -m enova.services.emulator``: the emulator without the rest of the command line."""

import sys

from enova.services.emulator.process import run

sys.exit(run(sys.argv[1:]))
