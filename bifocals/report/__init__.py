"""Floor 3: what was found, as pictures for people."""

from .assignment_picture import assignment_picture

__all__ = ["assignment_picture"]
