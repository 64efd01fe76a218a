"""What is valid in classic mail: one of each command, and mails of many kinds."""

from __future__ import annotations


def _crlf(text: str) -> bytes:
    return text.lstrip("\n").encode("utf-8", "surrogateescape").replace(b"\n", b"\r\n")


def _lines(text: str) -> list[bytes]:
    return _crlf(text).splitlines(keepends=True)


SMTP_SCRIPT = [
    *_lines("""
EHLO client.test
HELO client.test
MAIL FROM:<a@b.test> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=x
MAIL FROM:<>
RCPT TO:<bob@alpha.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@c
RCPT TO:<"a b"@alpha.test>
DATA
RSET
NOOP
AUTH PLAIN AGEAYg==
AUTH SCRAM-SHA-256
=
VRFY bob
QUIT
"""),
    b"Subject: x\r\n\r\n..text\r\n.\r\n",
    b"BDAT 5\r\nhello",
    b"BDAT 3 LAST\r\nend",
]

SMTP_REPLIES = [
    _crlf(reply)
    for reply in (
        "220 mx.test ESMTP\n", "250-mx.test\n250-SIZE 1000\n250 STARTTLS\n", "250 2.1.0 Ok\n", "354 go on\n",
        "451-4.3.0 one\n451 4.3.0 two\n", "550 5.1.1 no\n", "221 bye\n",
    )
]  # fmt: skip

IMAP_SCRIPT = [
    *_lines("""
a1 CAPABILITY
a3 SELECT "INBOX" (CONDSTORE)
a4 FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (DATE FROM)]<0.10>)
a5 UID SEARCH CHARSET UTF-8 OR SEEN 1,3:* NOT TEXT x
a7 STORE 1 +FLAGS.SILENT (\\Deleted x)
a8 IDLE
DONE
a9 LIST "" (% "*")
b1 STATUS &AOk- (MESSAGES)
b3 ID NIL
b5 UID MOVE 1:2 Junk
b6 FETCH 1 (ENVELOPE BODYSTRUCTURE INTERNALDATE RFC822.SIZE BODY[1.2.MIME])
b7 ENABLE CONDSTORE
b4 LOGOUT
"""),
    b"a2 LOGIN {16+}\r\nalice@alpha.test password\r\n",
    b'a6 APPEND Sent (\\Seen) " 1-Jan-2020 00:00:00 +0000" {5+}\r\nhello\r\n',
    b"b2 CREATE {3}\r\nabc\r\n",
]

POP3_SCRIPT = _lines("""
CAPA
USER alice@alpha.test
PASS password
AUTH PLAIN
AGEAYg==
STAT
LIST 1
RETR 1
TOP 1 10
UIDL
DELE 1
RSET
UTF8
QUIT
""")

ADDRESSES = [
    b"alice@alpha.test", b'"a b\\"c"@alpha.test', "jörg@bücher.example".encode(), b"a@[127.0.0.1]", b"a@[IPv6:::1]",
    b"postmaster", b"a.b+c@xn--bcher-kva.example", b"a@" + b"x" * 63 + b".test",
]  # fmt: skip

MAILS = [
    _crlf(mail)
    for mail in (
        """
From: =?utf-8?q?J=C3=B6rg?= <j@x.test>
To: a@b.test, "c, d" <c@d.test>, group: e@f.test;
Subject: =?iso-8859-1?B?5A==?=
 folded
Date: Wed, 01 Jan 2020 00:00:00 +0100
Message-ID: <1@x.test>
References: <2@x.test> <3@x.test>

text
""",
        """
From: a@b.test
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b b"

pre
--b b
Content-Type: text/html; charset*0*=utf-8''%75; charset*1=tf
Content-Transfer-Encoding: quoted-printable

<p>=C3=A4=

--b b
Content-Type: message/rfc822

Subject: inner

x
--b b
Content-Type: application/x; name=f
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename*=utf-8''%e4

AAAA=
--b b--
after""",
        """
Content-Type: multipart/report; report-type=delivery-status; boundary=x

--x

--x
Content-Type: message/delivery-status

Final-Recipient: rfc822;a@b
--x--
""",
        """
In-Reply-To: <1@x.test>
Content-Type: text/plain; charset=us-ascii
Content-Disposition: reaction

👍
""",
        """
Parley-Object: hFgcowEnBEg0dQuY
 vVn8/GNpc3NqYWxwaGEudGVzdKA=
Authentication-Results: mx.alpha.test; spf=pass

Hello
""",
    )
]
