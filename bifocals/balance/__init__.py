"""Floor 1: balancers, which weigh the losses of a branch."""

from .fixed import Fixed

__all__ = ["Fixed"]
