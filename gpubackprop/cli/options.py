"""Values of options: lists of names, and names with settings."""


def names(text: str | None) -> tuple[str, ...] | None:
    """Split "a,b" into names."""
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())
