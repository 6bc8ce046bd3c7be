# Sourced by the init of L1 and of L2: `ports NAME...` names the virtio-serial ports in /dev/virtio-ports.
# In: the names to wait for. Out: a link for each. A port's name comes in a message of its own after the port
# (virtio_console's VIRTIO_CONSOLE_PORT_NAME), and nothing but a uevent tells of it: so it looks every 20 ms.
ports() {
    mkdir -p /dev/virtio-ports
    for wanted; do
        until [ -e "/dev/virtio-ports/$wanted" ]; do
            for port in /sys/class/virtio-ports/vport*; do
                [ -e "$port/name" ] || continue
                read -r name <"$port/name"
                [ -z "$name" ] || ln -sfn "../${port##*/}" "/dev/virtio-ports/$name"
            done
            [ -e "/dev/virtio-ports/$wanted" ] || usleep 20000
        done
    done
}
