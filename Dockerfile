# ftjax on CPUs, run by a user without rights in a folder that is mounted at /data:
#
#     docker build -t ftjax .
#     docker run --rm -v "$PWD:/data" ftjax train --config sft:path=train.jsonl --workdir runs/mine
#
# EXTRAS are those of pyproject.toml: --build-arg EXTRAS=cuda,serve
FROM python:3.11-slim-bookworm

ARG EXTRAS=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY constraints constraints
COPY configs configs
COPY experiments experiments
COPY ftjax ftjax
RUN pip install --constraint constraints/py311.txt ".${EXTRAS:+[$EXTRAS]}"

RUN useradd --create-home --uid 1000 ftjax && install --directory --owner=ftjax /data
USER ftjax
WORKDIR /data
ENTRYPOINT ["ftjax"]
CMD ["--help"]
