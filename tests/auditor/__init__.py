"""The independent auditor: proves from the outside that no money was lost, doubled or left unexplained.

It shares no code with the program that it audits, on purpose: a rule that is wrong there must not be
wrong here in the same way. It reads three witnesses and believes none of them alone: the database, the
journal of the provider's sandbox, and the journal of whoever delivered the webhooks. It writes nothing.

README.md says how to run it, what each invariant means and what is left out.
"""
