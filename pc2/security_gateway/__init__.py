"""SecurityGateway: who may show themselves as whom, their tokens, and what was revoked."""
