#!/bin/bash
# The work of a corpus guest, named by corpus.workload on the kernel's command line. Prints
# "CORPUS READY" on the console once the work is under way, and "CORPUS FAILED why" if it is not.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /run/mysqld /run/postgresql
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
chown mysql:mysql /run/mysqld
chown postgres:postgres /run/postgresql
exec < /dev/null > /dev/ttyS0 2>&1

fail() {
  echo "CORPUS FAILED $*"
  sleep 1000000
}
wait_for() {
  for _ in $(seq 600); do
    "$@" > /dev/null 2>&1 && return 0
    sleep 0.5
  done
  fail "$*"
}
pool_is_loaded() {
  mariadb -N -e "SHOW STATUS LIKE 'Innodb_buffer_pool_load_status'" | grep -q completed
}
start_mariadb() {
  mariadbd --user=mysql > /tmp/mariadb.log 2>&1 &
  wait_for mariadb-admin ping
  wait_for pool_is_loaded
}
mariadb_bench() {  # script threads
  sysbench "$1" --db-driver=mysql --mysql-socket=/run/mysqld/mysqld.sock --mysql-user=root \
    --tables=8 --table-size=200000 --threads="$2" --time=0 --events=0 --rand-seed=11 \
    --report-interval=10 run || fail "$1 ended"
}
postgres_bench() {  # script rate
  sysbench "$1" --db-driver=pgsql --pgsql-host=/run/postgresql --pgsql-user=root \
    --tables=4 --table-size=250000 --threads=1 --rate="$2" --time=0 --events=0 --rand-seed=12 \
    --report-interval=10 run || fail "$1 ended"
}

workload=$(sed -n 's/.*corpus\.workload=\([a-z_]*\).*/\1/p' /proc/cmdline)
case "$workload" in
  idle) ;;
  mariadb_rw)
    start_mariadb
    mariadb_bench oltp_read_write 2 &
    ;;
  mariadb_ro)
    start_mariadb
    mariadb_bench oltp_read_only 2 &
    ;;
  postgresql)
    pg_ctlcluster 15 main start || fail pg_ctlcluster
    wait_for psql sbtest -c 'SELECT 1'
    for table in 1 2 3 4; do
      psql -q sbtest -c "SELECT pg_prewarm('sbtest$table'), pg_prewarm('sbtest${table}_pkey')"
    done
    postgres_bench oltp_read_only 0 &
    postgres_bench oltp_write_only 2 &
    ;;
  files)
    find /usr /var/lib/postgresql /var/lib/mysql -xdev -type f -print0 2> /dev/null |
      xargs -0 cat 2> /dev/null | head -c 1500M > /dev/null
    ;;
  redis)
    redis-server --port 0 --unixsocket /run/redis.sock --dir /var/lib/redis > /tmp/redis.log 2>&1 &
    wait_for redis-cli -s /run/redis.sock get session:1
    redis-benchmark -s /run/redis.sock -n 1000000000 -c 4 -t get -r 400000 > /dev/null 2>&1 &
    ;;
  *) fail "unknown workload '$workload'" ;;
esac
echo "CORPUS READY $workload"
sleep 1000000
