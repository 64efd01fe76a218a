"""The plug points and the plain records that cross them: what the core needs, said without saying who provides it.

Implementations live on floor 2 and 3 and are joined in service/; `zope.interface.verify.verifyObject` checks them
in the tests.
"""
