"""A mail server that takes mail as real ones do, or misbehaves as a file tells it to.

`server.py DIRECTORY [--tls implicit|starttls] [--login MECHANISM]` listens on a free port of this machine,
writes the port to its standard output, and adds a line of JSON to DIRECTORY/taken.ndjson for each mail that it
has taken, read by Python's own parser, and to DIRECTORY/logins for each login that was tried. It ends when its
standard input does, so it never outlives the test that started it.

With `--tls` it shows DIRECTORY/certificate.pem, and with `starttls` it takes nothing before that. With
`--login` it takes mail only from whoever has logged in, and offers only that way.

DIRECTORY/mode says what it does with the next mail:

    accept                  takes it
    STAGE CODE [ADDRESS]    answers mail, rcpt or data with this code: for this recipient, or for everybody
    reset ADDRESS           refuses this recipient, and closes the connection at the RSET that follows
    drop                    takes it and closes the connection without an answer
    slow                    takes it and answers after a minute
"""

import argparse
import asyncio
import email
import email.policy
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

LOGIN = (b"remit", b"open:sesame")


class Handler:
    def __init__(self, directory):
        self.directory = directory
        self.sessions = 0

    def mode(self):
        return (self.directory / "mode").read_text().split()

    def refusal(self, stage, address):
        """What the mode answers at this stage. Like real servers, it repeats the address."""
        mode = self.mode()
        if mode[0] == "reset" and stage == "rcpt" and mode[1] == address:
            return f"550 5.1.1 {address} does not exist"
        if mode[0] == stage and address in (mode[2:] or [address]):
            return f"{mode[1]} {mode[1][0]}.7.1 {address} is not welcome"
        return None

    async def handle_MAIL(self, server, session, envelope, address, options):
        if refusal := self.refusal("mail", address):
            return refusal
        envelope.mail_from = address
        return "250 2.1.0 sender ok"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if refusal := self.refusal("rcpt", address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_RSET(self, server, session, envelope):
        session.resets = getattr(session, "resets", 0) + 1
        if self.mode()[0] == "reset":
            server.transport.abort()
        return "250 2.0.0 reset"

    async def handle_DATA(self, server, session, envelope):
        if refusal := self.refusal("data", envelope.rcpt_tos[0]):
            return refusal
        self.take(server, session, envelope)
        if self.mode()[0] == "drop":
            server.transport.abort()
        if self.mode()[0] == "slow":
            await asyncio.sleep(60)
        return "250 2.0.0 taken"

    def take(self, server, session, envelope):
        if not hasattr(session, "number"):
            self.sessions += 1
            session.number = self.sessions
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = lambda kind: message.get_body(preferencelist=(kind,)).get_content()
        line = {
            "session": session.number,
            "resets": getattr(session, "resets", 0),
            "tls": server.transport.get_extra_info("ssl_object") is not None,
            "user": getattr(session, "user", None),
            "mechanism": getattr(session, "mechanism", None),
            "envelope_from": envelope.mail_from,
            "envelope_to": envelope.rcpt_tos,
            "headers": [[name, str(value)] for name, value in message.items()],
            "content_type": message.get_content_type(),
            "parts": [inner.get_content_type() for inner in message.iter_parts()],
            "defects": [type(defect).__name__ for inner in message.walk() for defect in inner.defects],
            "text": part("plain"),
            "html": part("html"),
        }
        with open(self.directory / "taken.ndjson", "a") as taken:
            taken.write(json.dumps(line) + "\n")

    def authenticate(self, server, session, envelope, mechanism, data):
        with open(self.directory / "logins", "a") as logins:
            logins.write(mechanism + "\n")
        if (data.login, data.password) != LOGIN:
            return AuthResult(success=False, handled=False)
        session.user = data.login.decode()
        session.mechanism = mechanism
        return AuthResult(success=True)


async def main(arguments):
    handler = Handler(arguments.directory)
    context = None
    if arguments.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.directory / "certificate.pem", arguments.directory / "key.pem")
    is_starttls = arguments.tls == "starttls"
    make = lambda: SMTP(
        handler,
        hostname="mail.test",
        tls_context=context if is_starttls else None,
        require_starttls=is_starttls,
        authenticator=handler.authenticate,
        auth_require_tls=is_starttls,
        auth_required=arguments.login is not None,
        auth_exclude_mechanism=[each for each in ("PLAIN", "LOGIN") if arguments.login not in (None, each)],
    )
    loop = asyncio.get_running_loop()
    from_first_byte = None if is_starttls else context
    server = await loop.create_server(make, host="127.0.0.1", port=0, ssl=from_first_byte)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


parser = argparse.ArgumentParser()
parser.add_argument("directory", type=pathlib.Path)
parser.add_argument("--tls", choices=["implicit", "starttls"])
parser.add_argument("--login", choices=["PLAIN", "LOGIN"])
asyncio.run(main(parser.parse_args()))
