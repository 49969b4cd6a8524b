# The prediction API alone, without Java. Built from the project's folder: docker build -f deploy/api.Dockerfile -t lakehouse-api .
# EXTRAS names the extras that the models need, such as torch: --build-arg EXTRAS=torch.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir /wheels .

FROM python:3.11.14-slim-bookworm
ARG EXTRAS=
RUN useradd --uid 1000 --create-home lakehouse
WORKDIR /lakehouse
COPY --from=build /wheels /wheels
COPY constraints.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt \
    "$(echo /wheels/*.whl)[s3,serving${EXTRAS:+,$EXTRAS}]" \
 && install -d -o lakehouse -g lakehouse data
COPY models models/
COPY flights flights/
COPY conf conf/
USER lakehouse
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
# A container has a loopback of its own: publish the port where it may be reached (-p 127.0.0.1:8000:8000). The key and what the
# lake and MLflow are reached by come from the environment when it is run, never from the image.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
 CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
CMD ["lakehouse", "serve", "--host", "0.0.0.0", "--port", "8000"]
