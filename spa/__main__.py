"""`python -m spa`: the `spa` command."""

from __future__ import annotations

from spa.cli import main

if __name__ == "__main__":
    main()
