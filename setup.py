"""The metadata of the distribution; the build system and the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

#: What `make run` needs: its authorization server is Authlib's.
DEMO = [
    "Authlib",
    "flask",
]

#: What alf.storages.EncryptedStorage needs.
CRYPTO = [
    "cryptography",
]

#: What alf.httpx needs.
HTTPX = [
    "httpx>=0.28",
]

#: What alf.storages.FileStorage needs. Older versions of filelock follow a link that is planted in
#: the lock's place (CVE-2025-68146, CVE-2026-22701).
FILE = [
    "filelock>=3.20.3",
    "platformdirs",
]

#: Signed JWTs: client assertions and DPoP.
JWT = ["PyJWT[crypto]>=2.10"]

TEST = [
    *CRYPTO,
    *DEMO,
    *FILE,
    *HTTPX,
    *JWT,
    "aiohttp",
    "boto3>=1.42",
    "build",
    "CacheControl",
    "cachelib",
    "cachetools",
    "celery",
    "coverage[toml]",
    "diskcache",
    "Django",
    "django-oauth-toolkit",
    "django-redis",
    "docutils",
    "dogpile.cache",
    "eventlet",
    "fastapi",
    "freezegun",
    "Flask-Caching",
    "gevent",
    "greenlet",
    "grpcio",
    "httpie",
    "httpx2",
    "hypothesis",
    "joserfc",
    "opentelemetry-instrumentation-requests",
    "opentelemetry-sdk",
    "prometheus-client",
    "pymemcache",
    "pytest",
    "PySocks",
    "pytest-cov",
    "python-memcached",
    "redis",
    "requests-cache",
    "requests-mock",
    "requests-oauthlib",
    "requests-toolbelt",
    "responses",
    "setuptools>=77",
    "time-machine>=2.13",
    "trustme",
    "twine",
    "valkey",
    "wheel",
]

setup(
    name="alf",
    version="1.0.0",
    description="A requests.Session that always has a good OAuth 2.0 token (client credentials)",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="The alf developers",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["oauth2", "oauth", "client-credentials", "requests", "bearer", "token", "m2m"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Pytest",
        "Intended Audience :: Developers",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Internet :: WWW/HTTP",
        "Topic :: Security",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["alf", "alf.*"]),
    py_modules=["_alf_pytest"],
    package_data={"alf": ["py.typed"]},
    python_requires=">=3.10",
    # What Ubuntu 22.04 has; urllib3 1.26.4 cannot be imported on Python 3.12.
    install_requires=["requests>=2.25.1", "urllib3>=1.26.5"],
    entry_points={
        "console_scripts": ["alf = alf._cli:main"],
        "pytest11": ["alf = _alf_pytest"],
    },
    extras_require={
        "bench": ["matplotlib"],
        "crypto": CRYPTO,
        "demo": DEMO,
        "dev": [*TEST, "mypy", "pyright[nodejs]", "ruff", "tox"],
        "docs": ["furo", "sphinx", "sphinx-copybutton"],
        "file": FILE,
        "fuzz": ["atheris"],
        "httpx": HTTPX,
        "jwt": JWT,
        "test": TEST,
    },
)
