package namespaces

import (
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// IDMap is the content of /proc/PID/uid_map or gid_map for the mappings; see
// user_namespaces(7).
func IDMap(ms []specs.LinuxIDMapping) string {
	b := make([]byte, 0, 64)
	for _, m := range ms {
		b = strconv.AppendUint(b, uint64(m.ContainerID), 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(m.HostID), 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(m.Size), 10)
		b = append(b, '\n')
	}
	return string(b)
}

// Mapped reports whether id of the container has a counterpart on the host.
func Mapped(ms []specs.LinuxIDMapping, id uint32) bool {
	for _, m := range ms {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return true
		}
	}
	return false
}

// ToHost returns the host's id for id of the container.
func ToHost(ms []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range ms {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// TimeOffsets is the content of /proc/PID/timens_offsets; see time_namespaces(7).
func TimeOffsets(offsets map[string]specs.LinuxTimeOffset) string {
	var b []byte
	for _, clock := range [...]string{"monotonic", "boottime"} {
		o, ok := offsets[clock]
		if !ok {
			continue
		}
		b = append(b, clock...)
		b = append(b, ' ')
		b = strconv.AppendInt(b, o.Secs, 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(o.Nanosecs), 10)
		b = append(b, '\n')
	}
	return string(b)
}
