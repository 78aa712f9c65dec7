# A server of a model, on the CPU:
#
#   docker build -t dongu .
#   docker run -p 127.0.0.1:8000:8000 -v "$PWD/runs:/home/dongu/runs:ro" dongu serve runs/reviews --host 0.0.0.0
#
# Add `--api-key-file` where more than this machine can reach it. All other commands work too: `docker run dongu --help`.
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY constraints.txt /tmp/
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c /tmp/constraints.txt "$(echo /wheels/dongu-*.whl)[serve,onnx]" \
  && useradd --create-home dongu
USER dongu
WORKDIR /home/dongu
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["dongu"]
CMD ["--help"]
