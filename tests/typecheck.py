"""The run-time type checker of the test run: shapes by jaxtyping, the rest by beartype."""

from beartype import BeartypeConf, beartype

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An `int` passes where a `float` is asked for, as everywhere in Python."""
