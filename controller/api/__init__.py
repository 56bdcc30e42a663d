"""The kinds as pydantic models: the one source of `crds/*.yaml`. No I/O."""
