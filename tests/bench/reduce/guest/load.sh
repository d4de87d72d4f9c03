#!/bin/bash
# Runs once, in the new root, while the image is built: fills the databases. Own mount, process and
# network namespaces, so that nothing of it outlives the build.
set -euo pipefail
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/mysqld /run/postgresql
chown mysql:mysql /run/mysqld
chown postgres:postgres /run/postgresql

wait_for() {
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.2
  done
  echo "load.sh: gave up on: $*" >&2
  return 1
}

cat > /etc/mysql/mariadb.conf.d/99-corpus.cnf <<'END'
[mariadbd]
skip-networking
innodb_buffer_pool_size = 384M
# The pool is filled at the start of the guest by reading, not by minutes of queries.
innodb_buffer_pool_dump_at_shutdown = ON
innodb_buffer_pool_dump_pct = 100
END
mariadbd --user=mysql &
wait_for mariadb-admin ping
mariadb -e 'CREATE DATABASE sbtest'
sysbench oltp_read_write --db-driver=mysql --mysql-socket=/run/mysqld/mysqld.sock \
  --mysql-user=root --tables=8 --table-size=200000 --threads=2 --rand-seed=1 prepare >/dev/null
mariadb-admin shutdown
wait

conf=/etc/postgresql/15/main/conf.d/corpus.conf
# A quarter of the memory, as its manual advises. The buffers then begin at 1024 modulo 4096.
printf '%s\n' "listen_addresses = ''" 'shared_buffers = 256MB' 'jit = off' > "$conf"
pg_ctlcluster 15 main start
wait_for runuser -u postgres -- psql -c 'SELECT 1'
runuser -u postgres -- psql -q -c 'CREATE DATABASE sbtest' -c 'CREATE ROLE root SUPERUSER LOGIN'
sysbench oltp_read_write --db-driver=pgsql --pgsql-host=/run/postgresql --pgsql-user=root \
  --tables=4 --table-size=250000 --threads=2 --rand-seed=2 prepare >/dev/null
psql -q sbtest -c 'CREATE EXTENSION pg_prewarm' -c 'VACUUM ANALYZE'
pg_ctlcluster 15 main stop

# Sessions of a web shop: JSON of 150 to 400 bytes with random identifiers.
redis-server --port 0 --unixsocket /run/redis.sock --save '' --dir /var/lib/redis >/dev/null &
wait_for redis-cli -s /run/redis.sock ping
perl -e 'srand(3); for my $i (1 .. 400000) {
  my $cart = join(",", map { sprintf("{\"sku\":%d,\"n\":%d}", rand(90000), 1 + rand(5)) } 0 .. rand(8));
  my $v = sprintf("{\"id\":\"%08x%08x\",\"user\":%d,\"seen\":%d,\"cart\":[%s]}",
                  rand(2**32), rand(2**32), rand(1e6), 1.7e9 + rand(1e6), $cart);
  my $k = "session:$i";
  printf("*3\r\n\$3\r\nSET\r\n\$%d\r\n%s\r\n\$%d\r\n%s\r\n", length($k), $k, length($v), $v);
}' | redis-cli -s /run/redis.sock --pipe >/dev/null
redis-cli -s /run/redis.sock save >/dev/null
redis-cli -s /run/redis.sock shutdown nosave || true
wait
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /var/log/mysql/* /tmp/*
