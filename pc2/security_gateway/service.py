"""SecurityGateway: identities, their tokens, and revocations; this file wires them to one shell and serves their verbs.

It signs tokens that everyone checks without it, and tells what was revoked; with it gone nobody gets a new token, and all else
goes on. Every change is flushed to the disk before it is answered. Secrets come in and are forgotten: they are in no record,
event, error or log.
"""

from __future__ import annotations

from typing import Final

import msgspec

from common.api import security_gateway as api
from common.api.catalog import SECURITY_GATEWAY
from common.api.words import Empty
from common.clock import timestamp
from common.config.settings import AgentEnvironment
from common.errors import BadRequest, TandemError
from common.security import ed25519
from common.security.keyfiles import KeyringFile
from common.security.keyring import GATEWAY, HostKeys, Issuer, Keyring
from common.security.passwords import Passwords
from common.security.tokens import BadToken, Minter, TokenChecker, verify
from common.service.call import Call
from common.service.process import run_service
from common.service.shell import Shell, ShellSettings
from common.store.protocol import Durability, RecordStore
from pc2.security_gateway import credentials, identities, revocations
from pc2.security_gateway.identities import IdentityBook, IdentityCreated, Kept, scopes_for
from pc2.security_gateway.lockout import Lockout
from pc2.security_gateway.own_files import OwnFiles
from pc2.security_gateway.proving import Proving
from pc2.security_gateway.revocations import RevocationBook

HOST: Final = "pc2"
STORE: Final = "security_gateway"
FOLLOW_S: Final = 0.25
TRIM_S: Final = 5.0

OPERATOR: Final = "operator"
HOME_OWNER: Final = "the owner of TANDEM_HOME"
MAY_GIVE: Final = ["control"]
"""What the gateway's tokens may allow at most: everything; each identity has bounds of its own."""


class SecurityGateway:
    """The service, made on its running loop; `open` begins, `close` ends it."""

    def __init__(
        self,
        settings: ShellSettings,
        store: RecordStore,
        files: OwnFiles,
        passwords: Passwords | None = None,
        lockout: Lockout | None = None,
    ) -> None:
        seed = files.signing_seed()
        self.shell = shell = Shell(settings, api.TOPICS, store, durability=Durability.FULL)
        self._files = files
        self._public = ed25519.public_of(seed)
        self._minter = Minter(GATEWAY, seed)
        self._book = IdentityBook()
        self._revoked = RevocationBook()
        self._passwords = passwords or Passwords()
        self._lockout = lockout or Lockout()
        self._proving = Proving(self._book, self._passwords, self._lockout, shell.clock.monotonic)
        self._keyring_file = KeyringFile(files.keyring, settings.host)
        self._trusted = self._with_own()
        self._checker = TokenChecker(lambda: self._trusted, shell.clock)
        self._last_issued_at = 0.0
        self.issued = 0
        shell.journal.rebuild = self._load
        self._add_routes()
        self._show_metrics()

    async def open(self) -> None:
        """Load what was known, make the operator at the first start, and serve; StorageUnavailable, KeyfileRefused, Conflict."""
        try:
            self.shell.journal.rebuild()
            await self._first_start()
            await self._renew_operator()
            await self.shell.open()
        except TandemError:
            self._passwords.close()
            await self.shell.close(drain_s=0)
            raise
        self.shell.every(FOLLOW_S, self._follow)
        self.shell.every(TRIM_S, self._trim)

    async def close(self) -> None:
        """Take no new work, let calls under way end for a while, and stop."""
        await self.shell.close()
        self._passwords.close()

    def _add_routes(self) -> None:
        handle = self.shell.handle
        handle(api.CREATE_IDENTITY, self._create_identity)
        handle(api.ISSUE_TOKEN, self._issue_token)
        handle(api.VERIFY_TOKEN, self._verify_token)
        handle(api.REVOKE_TOKEN, self._revoke_token)
        handle(api.REVOKE_IDENTITY, self._revoke_identity)
        handle(api.LIST_IDENTITIES, self._list_identities)
        handle(api.LIST_REVOCATIONS, self._list_revocations)

    def _show_metrics(self) -> None:
        counter, gauge = self.shell.metrics.read_counter, self.shell.metrics.read_gauge
        proving = self._proving
        counter("tandem_security_tokens_issued_total", "Tokens issued.", lambda: float(self.issued))
        counter("tandem_security_wrong_secrets_total", "Secrets that were wrong.", lambda: float(proving.wrong))
        counter("tandem_security_held_off_total", "Tries that had to wait first.", lambda: float(proving.held_off))
        gauge("tandem_security_identities", "Identities.", lambda: float(len(self._book)))
        gauge("tandem_security_revocations", "Revocations in force.", lambda: float(len(self._revoked)))

    # memory

    def _load(self) -> None:
        """Begin from what the store holds; StorageUnavailable, and nothing changed, when it cannot be read."""
        store = self.shell.store
        known = [fact for _, fact in identities.IDENTITIES.load(store)]
        tokens = [fact for _, fact in revocations.TOKENS.load(store)]
        names = [fact for _, fact in revocations.IDENTITIES.load(store)]
        self._book.restore(known)
        self._revoked.restore([*tokens, *names], self.shell.clock.monotonic())

    async def _first_start(self) -> None:
        if identities.was_started(self.shell.store):
            return
        await self._make_operator(GATEWAY)
        self.shell.log.warning("first start: what the operator gets tokens with lies in %s", self._files.operator)

    async def _renew_operator(self) -> None:
        """Whoever may write beside the operator's API key may have another one; what got tokens by the old one is over."""
        if not self._files.asks_for_operator:
            return
        ended = self._revoked.revoke_identity(OPERATOR, self.shell.clock.wall())
        self.shell.journal.write(revocations.rows(ended))
        self._revoked.apply(ended, self.shell.clock.monotonic())
        await self._make_operator(HOME_OWNER)
        self._files.operator_was_renewed()
        self.shell.log.warning(
            "the operator has a new API key, as %s asked for: it lies in %s; the old one and its tokens are void",
            self._files.renewal,
            self._files.operator,
        )

    async def _make_operator(self, by: str) -> None:
        """The operator's API key is on the disk before the operator is known by it."""
        api_key = credentials.new_api_key(self.shell.rng)
        asked = api.CreateIdentity(name=OPERATOR, kind=OPERATOR, scopes=MAY_GIVE)
        fact = self._book.create(
            asked, Kept(api_key=credentials.digest(api_key)), by=by, at=self.shell.clock.timestamp()
        )
        self._files.leave_operator(OPERATOR, api_key)
        self.shell.journal.write([*identities.rows(fact), identities.STARTED.put(OPERATOR, fact.identity)])
        self._book.apply(fact)
        await self.shell.journal.committed()

    def _follow(self) -> None:
        if self._keyring_file.refresh():
            self._trusted = self._with_own()

    def _with_own(self) -> Keyring:
        """What this host trusts, with this gateway as the issuer of its tokens and its own word on what is revoked."""
        known, host = self._keyring_file.current, self.shell.settings.host
        own = known.hosts.get(host) or HostKeys(host=host, serial=0, issued_at=0.0)
        others = [issuer for issuer in own.issuers if issuer.name != GATEWAY]
        own = msgspec.structs.replace(own, issuers=[Issuer(GATEWAY, self._public, MAY_GIVE), *others])
        return msgspec.structs.replace(
            known,
            own_host=host,
            gateway_host=host,
            hosts={**known.hosts, host: own},
            revoked_tokens=self._revoked.tokens,
            revoked_identities=self._revoked.identities,
        )

    # identities

    async def _create_identity(self, asked: api.CreateIdentity, call: Call) -> api.IdentityCreated:
        self.shell.journal.begin()
        self._book.may_create(asked, call.scopes)
        api_key, kept = await self._credential(asked)
        self.shell.journal.begin()
        self._book.may_create(asked, call.scopes)
        fact = self._book.create(asked, kept, by=call.identity, at=self.shell.clock.timestamp())
        self._change(fact)
        return api.IdentityCreated(identity=fact.identity, api_key=api_key)

    async def _credential(self, asked: api.CreateIdentity) -> tuple[str, Kept]:
        """The API key to tell, and what is kept of it; or nothing to tell, and what is kept of the password."""
        if not asked.secret:
            api_key = credentials.new_api_key(self.shell.rng)
            return api_key, Kept(api_key=credentials.digest(api_key))
        credentials.check_password(asked.secret)
        return "", Kept(password=await self._passwords.hashed(asked.secret))

    def _revoke_identity(self, asked: api.IdentityAsked, call: Call) -> Empty:
        self.shell.journal.begin()
        if not self._book.has(asked.name) and asked.name in self._revoked.identities:
            return Empty()
        gone = self._book.revoke(asked.name)
        self._revoke(self._revoked.revoke_identity(asked.name, max(self.shell.clock.wall(), self._last_issued_at)))
        self._change(gone)
        self._lockout.forget(asked.name)
        self.shell.log.warning("identity %s was revoked by %s", asked.name, call.identity)
        return Empty()

    def _change(self, fact: identities.Fact) -> None:
        self.shell.journal.write(identities.rows(fact))
        self._book.apply(fact)
        change = api.IdentityChanged(
            change="created" if isinstance(fact, IdentityCreated) else "revoked", identity=fact.identity
        )
        self.shell.publisher.publish(api.IDENTITIES_CHANGED, fact.identity.name, change)

    def _list_identities(self, _asked: Empty, _call: Call) -> api.Identities:
        self.shell.journal.look()
        as_of = self.shell.publisher.cursor(api.IDENTITIES_CHANGED.name)
        return api.Identities(identities=self._book.listed(), as_of=as_of)

    # tokens

    async def _issue_token(self, asked: api.IssueToken, call: Call) -> api.TokenIssued:
        self.shell.journal.look()
        identity = await self._proving.prove(asked.name, asked.secret, call.host)
        scopes = scopes_for(identity, asked.scopes)
        now = self.shell.clock.wall()
        minted = self._minter.mint(
            identity.name, scopes, call.binding, now=now, ttl_s=asked.ttl_s, audience=asked.audience
        )
        self._last_issued_at = max(self._last_issued_at, minted.claims.iat)
        self.issued += 1
        return api.TokenIssued(
            token=minted.token,
            expires_in_s=minted.claims.exp - minted.claims.iat,
            expires_at=timestamp(minted.claims.exp),
            name=identity.name,
            scopes=scopes,
            bound_to=call.binding,
        )

    def _verify_token(self, asked: api.TokenAsked, _call: Call) -> api.TokenVerified:
        self.shell.journal.look()
        try:
            claims = self._checker.read(asked.token)
        except BadToken as error:
            return api.TokenVerified(valid=False, reason=error.reason)
        return api.TokenVerified(
            valid=True,
            name=claims.sub,
            scopes=claims.scopes,
            issuer=claims.iss,
            bound_to=claims.cnf.kid,
            expires_in_s=max(0.0, claims.exp - self.shell.clock.wall()),
            audience=list(claims.audience),
        )

    def _revoke_token(self, asked: api.TokenAsked, call: Call) -> Empty:
        """Whoever holds a token may end it: that is the proof, and one that leaked is best ended by who finds it."""
        self.shell.journal.begin()
        try:
            claims, _ = verify(asked.token, self._trusted)
        except BadToken as error:
            raise BadRequest(f"no token of this fabric: {error.reason}", reason=error.reason) from None
        fact = self._revoked.revoke_token(claims.jti, claims.exp, self.shell.clock.wall())
        if fact is not None:
            self._revoke(fact)
            self.shell.log.info("a token of %s was revoked by %s", claims.sub, call.identity)
        return Empty()

    # revocations

    def _revoke(self, fact: revocations.Fact) -> None:
        self.shell.journal.write(revocations.rows(fact))
        change = self._revoked.apply(fact, self.shell.clock.monotonic())
        self.shell.publisher.publish(api.REVOCATIONS_CHANGED, "", change)

    def _list_revocations(self, _asked: Empty, _call: Call) -> api.Revocations:
        self.shell.journal.look()
        as_of = self.shell.publisher.cursor(api.REVOCATIONS_CHANGED.name)
        return api.Revocations(
            tokens=dict(self._revoked.tokens), identities=dict(self._revoked.identities), as_of=as_of
        )

    def _trim(self) -> None:
        """Forget the revocations of what has expired anyway."""
        if not self.shell.journal.able:
            return
        fact = self._revoked.drop(self.shell.clock.wall(), self.shell.clock.monotonic())
        if fact is not None:
            self._revoke(fact)


def main() -> int:
    """The process; its exit status."""
    environment = AgentEnvironment.read()
    files = OwnFiles.of(environment, environment.host or HOST)
    return run_service(
        SECURITY_GATEWAY,
        HOST,
        STORE,
        lambda settings, _directory, store: SecurityGateway(settings, store, files),
        durability=Durability.FULL,
    )
