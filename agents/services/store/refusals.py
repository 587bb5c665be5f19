"""Why the store does not do what it is asked: answers, not crashes. `code` is what the asker's SDK makes its error of."""

from __future__ import annotations


class Refusal(Exception):
    """Nothing of the request is stored."""

    code = "refused"


class Stale(Refusal):
    """Somebody else has saved: a newer incarnation, or another than the version that was expected."""

    code = "stale"


class DamagedState(Refusal):
    """What is stored is not what was saved, or may be missing; nobody is given it."""

    code = "damaged"


class TooLarge(Refusal):
    """More than the configuration allows."""

    code = "too_large"


class StoreFull(Refusal):
    """The disk is full: nothing that brings new data is taken until there is room."""

    code = "store_full"


class StoreBusy(Refusal):
    """More is written than the disk takes."""

    code = "overloaded"
