package node

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/runtime"
)

// Annotations of containers. They say whose a container is.
const (
	annotation     = "io.minirun.pod."
	podUID         = annotation + "uid"
	podNamespace   = annotation + "namespace"
	podName        = annotation + "name"
	podContainer   = annotation + "container"
	podAttempt     = annotation + "attempt"
	podSandbox     = annotation + "sandbox" // number of the sandbox that it is in
	podImage       = annotation + "image"
	podMessagePath = annotation + "messagePath"
)

// Files in the directory of a pod.
const (
	recordFile   = "pod.json"
	networkLink  = container.NetworkLink // a symbolic link whose target is the key of its record of networks
	nsDir        = "ns"
	shmDir       = "shm"
	volumesDir   = "volumes"
	subPathsDir  = "subpaths"
	filesDir     = "etc"
	messagesDir  = "messages"
	secretsDir   = "tmpfs" // small files that must not reach the disk
	maxContainer = 63
)

// containerID is the ID of an attempt to run a container of a pod.
func containerID(uid types.UID, name string, attempt int32) string {
	return string(uid) + "_" + name + "_" + strconv.Itoa(int(attempt))
}

// parseID is the reverse.
func parseID(id string) (uid types.UID, name string, attempt int32, ok bool) {
	i := strings.LastIndexByte(id, '_')
	if i < 0 {
		return "", "", 0, false
	}
	n, err := strconv.ParseInt(id[i+1:], 10, 32)
	if err != nil || n < 0 {
		return "", "", 0, false
	}
	id = id[:i]
	i = strings.LastIndexByte(id, '_')
	if i <= 0 || i == len(id)-1 {
		return "", "", 0, false
	}
	return types.UID(id[:i]), id[i+1:], int32(n), true
}

// validUID refuses what cannot be part of names of directories and groups.
func validUID(uid types.UID) bool {
	return len(uid) <= 128 && runtime.CheckID(string(uid)) == nil && !strings.Contains(string(uid), "_")
}
