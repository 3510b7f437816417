#!/bin/sh
# Debian's PostgreSQL, if there is none.
set -eu
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit
command -v initdb >/dev/null && exit
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "PostgreSQL is missing: apt-get install postgresql, as root" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --no-install-recommends postgresql-common >/dev/null
# Debian would begin a server of its own, which nobody asked for.
alone=/etc/postgresql-common/createcluster.d/no-server.conf
mkdir -p "${alone%/*}"
echo 'create_main_cluster = false' >"$alone"
apt-get install -qq --no-install-recommends postgresql >/dev/null
rm "$alone"
