"""Who is who: the keyring every process reads, the files keys lie in, and tokens."""
