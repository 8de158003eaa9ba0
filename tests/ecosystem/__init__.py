"""A Client inside other people's libraries: ``make ecosystem``.

Each library runs in a process of its own (:mod:`tests.ecosystem.trial`), in an environment of
pinned versions (``requirements/``), against a token endpoint and an API in yet another process
(:mod:`tests.ecosystem.server`). What is seen there becomes ``docs/works-with.rst``.
"""
