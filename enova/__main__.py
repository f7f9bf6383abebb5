"""``python -m enova``: the same as the console script."""

from enova.cli.main import run

if __name__ == "__main__":
    run()
