# MinIO's community edition is archived: no more images, no more releases. This is its last commit, with the mends that came
# after its last release, built from source;
# `make stack` reads the version here. SeaweedFS (or any S3 store) can take its place: put its image and command into
# docker-compose.yml and deploy/servers.py, with the same key pair and port.
FROM golang:1.24.11-bookworm AS build
ARG MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
RUN CGO_ENABLED=0 go install github.com/minio/minio@${MINIO_VERSION}

FROM debian:12.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home minio && install -d -o minio -g minio /data
COPY --from=build /go/bin/minio /usr/local/bin/minio
USER minio
VOLUME /data
