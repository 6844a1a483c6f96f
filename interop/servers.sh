# Starts and stops the servers that clients are driven against: our binary, or Apache RocketMQ.
#
# Sourced by interop/run. A cluster is one name server and one broker, on loopback, with everything in $CLUSTER.
# Only processes started here are ever stopped, by the ids kept in $CLUSTER/*.pid.

BROKER_NAME=broker-a

STOCK_JVM=(
  --add-exports=java.base/jdk.internal.ref=ALL-UNNAMED --add-opens=java.base/java.nio=ALL-UNNAMED
  --add-exports=java.base/sun.nio.ch=ALL-UNNAMED --add-opens=java.base/sun.nio.ch=ALL-UNNAMED
  --add-opens=java.base/java.lang=ALL-UNNAMED
)

# cluster_start KIND FLUSH: KIND is orrery or stock, FLUSH is ASYNC_FLUSH or SYNC_FLUSH; CONF_EXTRA holds further lines of broker.conf.
cluster_start() {
  KIND=$1 FLUSH=$2
  CLUSTER=$(mktemp -d "$WORK/cluster.XXXXXX")
  echo "$CLUSTER" > "$WORK/cluster"
  NAMESRV=127.0.0.1:$PORT_NAMESRV
  mkdir -p "$CLUSTER/home"
  printf 'bindAddress=127.0.0.1\nlistenPort=%s\nkvConfigPath=%s\n' "$PORT_NAMESRV" "$CLUSTER/kvConfig.json" > "$CLUSTER/namesrv.conf"
  cat > "$CLUSTER/broker.conf" <<CONF
brokerClusterName=DefaultCluster
brokerName=$BROKER_NAME
brokerId=0
brokerRole=ASYNC_MASTER
flushDiskType=$FLUSH
namesrvAddr=$NAMESRV
brokerIP1=127.0.0.1
listenPort=$PORT_BROKER
storePathRootDir=$CLUSTER/store
storePathCommitLog=$CLUSTER/store/commitlog
mappedFileSizeCommitLog=268435456
maxMessageSize=4194304
deleteWhen=04
fileReservedTime=48
${CONF_EXTRA:-}
CONF
  if [ "$KIND" = stock ]; then stock_fetch || return 1; fi
  namesrv_start && broker_start
}

namesrv_start() {
  if [ "$KIND" = stock ]; then
    background namesrv env ROCKETMQ_HOME="$STOCK" java -Xms128m -Xmx128m "${STOCK_JVM[@]}" -Duser.home="$CLUSTER/home" \
      -cp "$STOCK/conf:$STOCK/lib/*" org.apache.rocketmq.namesrv.NamesrvStartup -c "$CLUSTER/namesrv.conf"
  else
    background namesrv "$ORRERY" namesrv -c "$CLUSTER/namesrv.conf"
  fi
  wait_for_port namesrv "$PORT_NAMESRV"
}

broker_start() {
  if [ "$KIND" = stock ]; then
    background broker env ROCKETMQ_HOME="$STOCK" java -Xms512m -Xmx512m -Xmn256m -XX:MaxDirectMemorySize=512m "${STOCK_JVM[@]}" \
      -Duser.home="$CLUSTER/home" -Drocketmq.broker.diskSpaceWarningLevelRatio=0.99 \
      -Drocketmq.broker.diskSpaceCleanForciblyRatio=0.98 \
      -cp "$STOCK/conf:$STOCK/lib/*" org.apache.rocketmq.broker.BrokerStartup -c "$CLUSTER/broker.conf"
  else
    background broker "$ORRERY" broker -c "$CLUSTER/broker.conf"
  fi
  wait_for_port broker "$PORT_BROKER"
}

# broker_kill: kill -9, and wait until it is gone.
broker_kill() {
  local pid
  pid=$(cat "$CLUSTER/broker.pid")
  kill -9 "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
}

# broker_stop: in order, and wait until it is gone.
broker_stop() { role_stop broker; }

cluster_stop() {
  role_stop broker
  role_stop namesrv
}

role_stop() {
  local role=$1 pid
  [ -f "$CLUSTER/$role.pid" ] || return 0
  pid=$(cat "$CLUSTER/$role.pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$CLUSTER/$role.pid"
}

# background ROLE COMMAND…: output goes to $CLUSTER/ROLE.log, the id to $CLUSTER/ROLE.pid.
background() {
  local role=$1
  shift
  "$@" >> "$CLUSTER/$role.log" 2>&1 &
  echo $! > "$CLUSTER/$role.pid"
  disown
}

wait_for_port() {
  local role=$1 port=$2
  for _ in $(seq 300); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return 0; fi
    if ! kill -0 "$(cat "$CLUSTER/$role.pid")" 2>/dev/null; then break; fi
    sleep 0.1
  done
  echo "$KIND $role did not open port $port; the end of its log:" >&2
  tail -n 20 "$CLUSTER/$role.log" >&2
  return 1
}

stock_fetch() {
  STOCK=$WORK/stock
  "$HERE/stock/fetch" "$STOCK"
}
