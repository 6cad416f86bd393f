"""Model servers over HTTP: what each says of itself, and what it can be asked to do about its memory."""
