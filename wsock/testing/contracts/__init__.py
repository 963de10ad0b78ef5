"""What every implementation of an interface is held to: one module for each interface, for everybody's tests.

A suite is a mixin on :class:`twisted.trial.unittest.TestCase`. It has one method to provide, which makes a
new, empty implementation::

    class MyStoreTests(MessageStoreContract, TestCase):
        async def make_message_store(self) -> IMessageStore:
            return MyStore()
"""

__all__: list[str] = []
