"""A token checked offline: the first time with its signature, and again; beside it the bare check of an Ed25519 signature."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.result import Figure, Result, Target
from common.security import ed25519
from common.security.keyring import GATEWAY, HostKeys, Issuer, Keyring, local_binding
from common.security.tokens import Minter, TokenChecker
from common.telemetry.system_clock import SystemClock

TOKENS: Final = 500
AGAIN: Final = 40
FIRST: Final = Target("a token checked for the first time", "at most", 60.0, "us")
REPEATED: Final = Target("a token checked again", "at most", 3.0, "us")
BINDING: Final = local_binding("pc2")


def run(rounds: int) -> Result:
    seed, clock = ed25519.new_seed(), SystemClock()
    issuer = Issuer(GATEWAY, ed25519.public_of(seed), ["control"])
    keyring = Keyring(own_host="pc2", hosts={"pc2": HostKeys(host="pc2", serial=1, issued_at=1.0, issuers=[issuer])})
    minter = Minter(GATEWAY, seed)
    tokens = [
        minter.mint("reader", ["use"], BINDING, now=clock.wall(), ttl_s=900.0).token for _ in range(rounds * TOKENS)
    ]
    checker = TokenChecker(lambda: keyring, clock)
    first, again, bare = [], [], []
    for number in range(rounds):
        fresh = tokens[number * TOKENS : (number + 1) * TOKENS]
        first.append(median(_took_us(checker, [token]) for token in fresh))
        again.append(_took_us(checker, fresh[-1:] * AGAIN * TOKENS))
        bare.append(_bare_us(fresh[-1]))
    figures = [
        Figure.of("first, p50", "us", first),
        Figure.of("again, mean", "us", again),
        Figure.of("bare verify of cryptography, the same bytes, p50", "us", bare),
    ]
    verdicts = [FIRST.judge(figures[0].median), REPEATED.judge(figures[1].median)]
    return Result("Tokens checked offline", figures, verdicts)


def _took_us(checker: TokenChecker, tokens: list[str]) -> float:
    """Microseconds for each."""
    began = perf_counter()
    for token in tokens:
        checker.check(token, "Supervisor", BINDING)
    return (perf_counter() - began) / len(tokens) * 1e6


def _bare_us(token: str) -> float:
    """Microseconds for the signature alone, by OpenSSL."""
    key, message = Ed25519PrivateKey.generate(), token.rpartition(".")[0].encode()
    signature, public = key.sign(message), key.public_key()
    times: list[float] = []
    for _ in range(TOKENS):
        began = perf_counter()
        public.verify(signature, message)
        times.append(perf_counter() - began)
    return median(times) * 1e6
