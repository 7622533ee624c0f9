# SPDX-License-Identifier: Apache-2.0
# The image: one static program, and nothing beside it.
#
#   docker build -t nodens .                                    builds the program too, on any machine
#   buildah build --build-context builder=DIR --target image .  DIR/out/nodens is there already: `make image`
#
# The builder is named by tag: its digest cannot be looked up where this file is tested, which reaches no
# registry of images (docs/adr/0041).
FROM docker.io/library/rust:1.95.0-bookworm AS builder
WORKDIR /src
COPY . .
# A static program needs no file of the image, not even a loader.
RUN host=$(rustc -vV | sed -n 's/^host: //p') \
 && RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --release -p nodens --target "$host" \
 && mkdir /out \
 && strip -o /out/nodens "target/$host/release/nodens"

FROM scratch AS image
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nodens" \
      org.opencontainers.image.description="A node-local DNS cache for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/nodens-dns/nodens" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=builder /out/nodens /nodens
# By number: there is no /etc/passwd. Root, as capabilities reach no other user (docs/security.md).
USER 0:0
ENTRYPOINT ["/nodens"]
