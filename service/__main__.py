"""`resnet-serve`; also `python -m service`."""

from __future__ import annotations

from models import malloc


def run() -> None:
    """Serve until a signal says to stop. The imports come second: the first line can start the process again."""
    malloc.use_huge_pages()
    from service.serve import serve

    serve()


if __name__ == "__main__":
    run()
