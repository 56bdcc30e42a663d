"""Operations as data, one module each: guards, then steps."""
