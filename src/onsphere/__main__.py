"""The command ``onsphere``, also as ``python -m onsphere``; without the laboratory it says what to install."""

import sys


def main() -> None:
    """Run the command line, or say in one line which package is missing (status 2)."""
    try:
        from onsphere.lab.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "onsphere").partition(".")[0] == "onsphere":
            raise
        print(
            f"onsphere: the commands need {error.name}, which is not there: pip install 'onsphere[lab]'",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
