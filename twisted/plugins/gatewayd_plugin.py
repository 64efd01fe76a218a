"""`twistd gatewayd --config FILE`."""

from twisted.application.service import ServiceMaker

serviceMaker = ServiceMaker(
    "gatewayd",
    "gatewayd.service",
    "Parley and classic e-mail (SMTP, IMAP, POP3) over one message store",
    "gatewayd",
)
