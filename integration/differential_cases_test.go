package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// dfMutations are changes to the default configuration, one in a line:
//
//	path = value     set, making objects on the way
//	path + value     append to the array
//	path -           remove
//
// An element of an array is named by its number. A line may have several changes
// with " & " between them. It is also the name of the case, under which
// docs/differences.md finds it. DIR is a directory of the host with the files
// that dfHost makes, ASLR the host's own value of that sysctl.
//
// Nothing here may hurt the host when a runtime does it: runc and crun write
// what they are told, and a number in cgroup.procs is a process of the host.
// What a mount shows of the host is only ever below DIR.
//
// Hooks read what they are given: crun fails when it cannot write it all.
//
// The first part is legal and is used for pairs as well.
const dfMutations = `
ociVersion = "1.0.0"
ociVersion = "1.1.0"
ociVersion = "1.0.2-dev"
root.readonly = true
root.readonly = false
root.path = "./rootfs/../rootfs"
hostname = "other"
hostname -
hostname = "a.name.with.dots-and-0123456789"
hostname = "64-bytes-64-bytes-64-bytes-64-bytes-64-bytes-64-bytes-64-bytes-6"
domainname = "example.org"
annotations = {"org.example.key":"value","":"empty"}
annotations = {}
unknownField = {"a":[1,{"b":null}]}
process.unknownField = 7
linux.unknownField = [1]
windows = {"layerFolders":["x"]}
solaris = {"milestone":"x"}
process.cwd = "/tmp"
process.cwd = "/tmp/../bin/."
process.cwd = "/made/by/the/runtime"
process.cwd = "//bin"
process.env = ["PATH=/bin","A=1","A=2","EMPTY=","SPACE= x ","LINES=a\nb"]
process.env = []
process.env -
process.env = ["HOME=/here"]
process.env = ["A==b=c","PATH=/bin:/usr/bin"]
process.env + "LANG=ü"
process.user = {"uid":1000,"gid":1000}
process.user = {"uid":1000,"gid":1000,"additionalGids":[10,20]}
process.user = {"uid":0,"gid":0,"additionalGids":[10,20,10]}
process.user = {"uid":4242,"gid":0}
process.user = {"uid":0,"gid":4242}
process.user = {"uid":4294967294,"gid":4294967294}
process.user.umask = 0
process.user.umask = 63
process.user.umask = 511
process.user.username = "somebody"
process.user -
process.noNewPrivileges = true
process.noNewPrivileges = false
process.capabilities = {}
process.capabilities -
process.capabilities = {"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]}
process.capabilities = {"bounding":["CAP_KILL","CAP_CHOWN"],"permitted":["CAP_KILL"],"inheritable":["CAP_KILL"],"ambient":["CAP_KILL"],"effective":["CAP_KILL"]}
process.capabilities = {"bounding":["CAP_KILL"]}
process.capabilities = {"bounding":["CAP_KILL","CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL","CAP_KILL"]}
process.capabilities.effective = []
process.rlimits = []
process.rlimits = [{"type":"RLIMIT_NOFILE","hard":64,"soft":64},{"type":"RLIMIT_CORE","hard":0,"soft":0}]
process.rlimits = [{"type":"RLIMIT_CPU","hard":500,"soft":400},{"type":"RLIMIT_FSIZE","hard":1048576,"soft":65536}]
process.rlimits = [{"type":"RLIMIT_STACK","hard":16777216,"soft":8388608},{"type":"RLIMIT_MEMLOCK","hard":8192,"soft":4096}]
process.rlimits = [{"type":"RLIMIT_NPROC","hard":1000,"soft":500},{"type":"RLIMIT_MSGQUEUE","hard":8192,"soft":0}]
process.rlimits = [{"type":"RLIMIT_RTPRIO","hard":0,"soft":0},{"type":"RLIMIT_NICE","hard":0,"soft":0},{"type":"RLIMIT_RTTIME","hard":1000000,"soft":1000000}]
process.rlimits = [{"type":"RLIMIT_LOCKS","hard":100,"soft":10},{"type":"RLIMIT_SIGPENDING","hard":100,"soft":100},{"type":"RLIMIT_RSS","hard":1073741824,"soft":1073741824}]
process.oomScoreAdj = 500
process.oomScoreAdj = 1000
process.apparmorProfile = "unconfined"
process.apparmorProfile = ""
process.selinuxLabel = ""
process.consoleSize = {"height":10,"width":20}
process.terminal = false
process.commandLine = "x"
process.scheduler = {"policy":"SCHED_OTHER","nice":5}
process.scheduler = {"policy":"SCHED_BATCH"}
process.ioPriority = {"class":"IOPRIO_CLASS_BE","priority":6}
process.execCPUAffinity = {"initial":"0","final":"0"}
mounts -1
mounts + {"destination":"/tmp","type":"tmpfs","source":"tmpfs"}
mounts + {"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev","noexec","size=64k","mode=1777"]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["ro"]}
mounts + {"destination":"/new/place","type":"tmpfs","source":"tmpfs","options":["noatime","nodiratime"]}
mounts + {"destination":"/tmp","type":"bind","source":"DIR/a","options":["bind"]}
mounts + {"destination":"/tmp","type":"bind","source":"DIR/a","options":["rbind","ro"]}
mounts + {"destination":"/tmp","type":"none","source":"DIR/a","options":["rbind","rw","rprivate"]}
mounts + {"destination":"/tmp","source":"DIR/a","options":["bind","nosuid","nodev","noexec","noatime"]}
mounts + {"destination":"/tmp","source":"DIR/a","options":["bind","shared"]}
mounts + {"destination":"/tmp","source":"DIR/a","options":["bind","slave"]}
mounts + {"destination":"/tmp","source":"DIR/a","options":["bind","unbindable"]}
mounts + {"destination":"/tmp","source":"DIR/a","options":["rbind","rro"]}
mounts + {"destination":"/etc/passwd","source":"DIR/file","options":["bind","ro"]}
mounts + {"destination":"/new/file","source":"DIR/file","options":["bind"]}
mounts + {"destination":"/link/to/x","source":"DIR/a","options":["bind"]}
mounts + {"destination":"/tmp","source":"DIR/link","options":["bind"]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["tmpcopyup"]}
mounts + {"destination":"/tmp","type":"ramfs","source":"ramfs","options":["nodev"]}
mounts + {"destination":"/tmp","type":"proc","source":"proc","options":["nosuid","nodev","noexec"]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["defaults","rw","strictatime"]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["sync","dirsync"]}
mounts + {"destination":"tmp","type":"tmpfs","source":"tmpfs"}
mounts + {"destination":"/tmp/","type":"tmpfs","source":"tmpfs"}
mounts + {"destination":"/tmp","type":"tmpfs","source":"tmpfs"} & mounts + {"destination":"/tmp/sub","source":"DIR/a","options":["bind"]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"one"} & mounts + {"destination":"/tmp","type":"tmpfs","source":"two"}
mounts + {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","noexec","nodev","relatime","ro"]}
mounts + {"destination":"/sys/fs/cgroup","type":"cgroup2","source":"cgroup2","options":["nosuid","noexec","nodev","ro"]}
mounts + {"destination":"/dev/extra","type":"tmpfs","source":"tmpfs"}
mounts + {"destination":"/proc/meminfo","source":"DIR/file","options":["bind"]}
mounts + {"destination":"/tmp","source":"DIR/a","options":["bind","nosymfollow"]}
linux.namespaces = [{"type":"pid"},{"type":"mount"},{"type":"uts"},{"type":"ipc"}]
linux.namespaces = [{"type":"mount"},{"type":"uts"},{"type":"ipc"},{"type":"network"}]
linux.namespaces = [{"type":"mount"},{"type":"uts"},{"type":"pid"},{"type":"network"},{"type":"ipc"}]
linux.namespaces = [{"type":"mount"},{"type":"pid"}] & hostname -
linux.namespaces + {"type":"user"} & linux.uidMappings = [{"containerID":0,"hostID":100000,"size":65536}] & linux.gidMappings = [{"containerID":0,"hostID":100000,"size":65536}]
linux.namespaces + {"type":"time"}
linux.namespaces = [{"type":"pid"},{"type":"mount"},{"type":"uts"},{"type":"network","path":"/proc/self/ns/net"}]
linux.namespaces = [{"type":"pid"},{"type":"mount"},{"type":"uts","path":"DIR/uts"}] & hostname -
linux.namespaces + {"type":"time"} & linux.timeOffsets = {"monotonic":{"secs":1000},"boottime":{"secs":5,"nanosecs":6}}
linux.maskedPaths = []
linux.maskedPaths -
linux.maskedPaths = ["/proc/kcore","/nowhere","/bin","/etc/passwd"]
linux.readonlyPaths = []
linux.readonlyPaths -
linux.readonlyPaths = ["/proc/sys","/nowhere","/tmp","/etc/passwd"]
linux.rootfsPropagation = "private"
linux.rootfsPropagation = "rprivate"
linux.rootfsPropagation = "slave"
linux.rootfsPropagation = "rslave"
linux.rootfsPropagation = "shared"
linux.rootfsPropagation = "unbindable"
linux.devices = [{"path":"/dev/x","type":"c","major":1,"minor":3}]
linux.devices = [{"path":"/dev/x","type":"c","major":1,"minor":3,"fileMode":384,"uid":7,"gid":8}]
linux.devices = [{"path":"/dev/sub/dir/x","type":"b","major":7,"minor":200}]
linux.devices = [{"path":"/dev/fifo","type":"p"}]
linux.devices = [{"path":"/dev/x","type":"u","major":1,"minor":5}]
linux.devices = [{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":438}]
linux.devices = [{"path":"/tmp/x","type":"c","major":1,"minor":3}]
linux.devices = [{"path":"/dev/x","type":"c","major":1,"minor":3,"fileMode":8630}]
linux.resources -
linux.resources.devices = []
linux.resources.devices = [{"allow":true,"access":"rwm"}]
linux.resources.devices = [{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":-1,"access":"rw"}]
linux.resources.devices = [{"allow":false,"type":"a"}]
linux.resources.unified = {}
linux.resources.network = {"classID":5,"priorities":[{"name":"lo","priority":3}]}
linux.resources.cpu = {}
linux.resources.memory = {"kernel":1048576,"kernelTCP":1048576,"useHierarchy":true}
linux.resources.memory = {"swappiness":10}
linux.resources.cpu = {"realtimePeriod":1000000}
linux.sysctl = {"net.ipv4.ip_forward":"1"}
linux.sysctl = {"kernel.shmmax":"1048576","net.core.somaxconn":"100","fs.mqueue.msg_max":"20"}
linux.sysctl = {"net/ipv4/conf/lo/forwarding":"1"}
linux.sysctl = {}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW"}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[{"names":["kexec_load","no_such_call"],"action":"SCMP_ACT_ERRNO"}]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getcwd"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["personality"],"action":"SCMP_ACT_KILL","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}
linux.seccomp = {"defaultAction":"SCMP_ACT_LOG","flags":["SECCOMP_FILTER_FLAG_LOG"]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],"syscalls":[{"names":["uname"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":0,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}]}]}
linux.cgroupsPath -
linux.personality = {"domain":"LINUX"}
linux.memoryPolicy = {"mode":"MPOL_LOCAL"}
linux.memoryPolicy = {"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES"]}
process.ioPriority = {"class":"IOPRIO_CLASS_IDLE"}
linux.intelRdt = {}
linux.mountLabel = ""
hooks = {}
hooks.prestart = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"]}]
hooks.createRuntime = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"],"env":["A=b"],"timeout":5}]
hooks.createContainer = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"]}]
hooks.startContainer = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"]}]
hooks.poststart = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"]}]
hooks.poststop = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"]}]
process.args = ["busybox","echo","a b","","ü"]
process.args = ["/bin/busybox","sh","-c","exit 7"]
process.args = ["sh","-c","kill -9 $$"]

# From here on no pairs: wrong, contradicting or odd.
ociVersion -
ociVersion = ""
ociVersion = "0.9.0"
ociVersion = "2.0.0"
ociVersion = "1"
root -
root = {}
root.path = ""
root.path = "nothing"
root.path = "root-link"
root.path = "config.json"
process -
process = null
process.args -
process.args = []
process.args = [""]
process.args = ["no-such-program"]
process.args = ["/no/such/program"]
process.args = ["/etc/passwd"]
process.args = ["/bin"]
process.args = ["/etc/passwd/x"]
process.args = ["./sandbox"] & process.cwd = "/bin"
process.args = ["text"]
process.args = ["a\u0000b"]
process.cwd = ""
process.cwd -
process.cwd = "tmp"
process.cwd = "/etc/passwd"
process.cwd = "/link/to"
process.env = ["PATH=/bin","NOVALUE"]
process.env = ["PATH=/bin","=x"]
process.env = ["PATH=/bin",""]
process.env = ["PATH=/bin","A=\u0000"]
process.user.uid = 4294967295
process.user.gid = 4294967295
process.user.additionalGids = [4294967295]
process.user.umask = 512
process.capabilities.bounding = ["CAP_NO_SUCH"]
process.capabilities.bounding = ["kill"]
process.capabilities.effective = ["CAP_SYS_ADMIN"]
process.capabilities = {"bounding":[],"ambient":["CAP_KILL"]}
process.capabilities = {"bounding":["CAP_KILL"],"inheritable":["CAP_CHOWN"]}
process.capabilities = {"bounding":["CAP_KILL"],"permitted":["CAP_KILL"],"ambient":["CAP_KILL"]}
process.rlimits = [{"type":"RLIMIT_NO_SUCH","hard":1,"soft":1}]
process.rlimits = [{"type":"nofile","hard":1,"soft":1}]
process.rlimits = [{"type":"RLIMIT_NOFILE","hard":10,"soft":20}]
process.rlimits = [{"type":"RLIMIT_NOFILE","hard":64,"soft":64},{"type":"RLIMIT_NOFILE","hard":32,"soft":32}]
process.rlimits = [{"type":"RLIMIT_NOFILE"}]
process.rlimits = [{"hard":1,"soft":1}]
process.oomScoreAdj = 1001
process.oomScoreAdj = -1001
process.terminal = true
process.consoleSize = {"height":70000,"width":1}
process.apparmorProfile = "no-such-profile"
process.selinuxLabel = "no_such:label"
process.scheduler = {"policy":"SCHED_NO_SUCH"}
process.scheduler = {}
process.ioPriority = {"class":"IOPRIO_NO_SUCH","priority":1}
process.ioPriority = {"class":"IOPRIO_CLASS_BE","priority":9}
hostname = "65-bytes-65-bytes-65-bytes-65-bytes-65-bytes-65-bytes-65-bytes-65"
hostname = "nul\u0000"
domainname = "65-bytes-65-bytes-65-bytes-65-bytes-65-bytes-65-bytes-65-bytes-65"
mounts + {}
mounts + {"type":"tmpfs"}
mounts + {"destination":"","type":"tmpfs"}
mounts + {"destination":"/tmp"}
mounts + {"destination":"/tmp","type":"no-such-fs","source":"x"}
mounts + {"destination":"/tmp","type":"bind","source":"/no/such/source","options":["bind"]}
mounts + {"destination":"/tmp","options":["bind"]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"t","options":["no-such-option"]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"t","options":["size=banana"]}
mounts + {"destination":"/tmp","source":"DIR/a","options":["bind","size=1k"]}
mounts + {"destination":"/etc/passwd","source":"DIR/a","options":["bind"]}
mounts + {"destination":"/etc","source":"DIR/file","options":["bind"]}
mounts + {"destination":"/proc","type":"tmpfs","source":"t"}
mounts + {"destination":"/proc/self","source":"DIR/a","options":["bind"]}
mounts + {"destination":"/tmp/../proc/sys","source":"DIR/a","options":["bind"]}
mounts + {"destination":"/tmp","source":"DIR/a","options":["bind"],"uidMappings":[{"containerID":0,"hostID":1,"size":1}]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"t","options":["ro","rw"]}
mounts + {"destination":"/tmp","type":"tmpfs","source":"t","options":["private","shared"]}
mounts + {"destination":"/etc/passwd/sub","type":"tmpfs","source":"t"}
hooks.prestart = [{}]
hooks.prestart = [{"path":"sh","args":["sh","-c","cat >/dev/null"]}]
hooks.prestart = [{"path":"/no/such/hook"}]
hooks.prestart = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null; exit 1"]}]
hooks.createRuntime = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null; exit 1"]}]
hooks.createContainer = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null; exit 1"]}]
hooks.startContainer = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null; exit 1"]}]
hooks.createRuntime = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"],"timeout":0}]
hooks.createRuntime = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"],"timeout":-1}]
linux.namespaces = [{"type":"mount"},{"type":"uts"},{"type":"pid"},{"type":"pid"}]
linux.namespaces + {"type":"no-such"}
linux.namespaces + {"type":""}
linux.namespaces = [{"type":"mount"},{"type":"pid"}]
linux.namespaces = [{"type":"mount"},{"type":"uts"},{"type":"network","path":"/no/such/namespace"}]
linux.namespaces = [{"type":"mount"},{"type":"uts"},{"type":"network","path":"DIR/uts"}]
linux.namespaces = [{"type":"mount"},{"type":"uts"},{"type":"network","path":"/etc/passwd"}]
linux.namespaces = [{"type":"mount"},{"type":"uts"},{"type":"network","path":"relative"}]
linux.namespaces + {"type":"user"}
linux.namespaces + {"type":"user"} & linux.uidMappings = [{"containerID":0,"hostID":100000,"size":10}]
linux.namespaces + {"type":"user"} & linux.uidMappings = [{"containerID":5,"hostID":100000,"size":10}] & linux.gidMappings = [{"containerID":0,"hostID":100000,"size":10}]
linux.namespaces + {"type":"user"} & linux.uidMappings = [{"containerID":0,"hostID":100000,"size":0}] & linux.gidMappings = [{"containerID":0,"hostID":100000,"size":10}]
linux.namespaces + {"type":"user"} & linux.uidMappings = [{"containerID":0,"hostID":100000,"size":10},{"containerID":5,"hostID":200000,"size":10}] & linux.gidMappings = [{"containerID":0,"hostID":100000,"size":10}]
linux.uidMappings = [{"containerID":0,"hostID":100000,"size":10}]
linux.timeOffsets = {"monotonic":{"secs":1}}
linux.namespaces + {"type":"time"} & linux.timeOffsets = {"wall":{"secs":1}}
linux.namespaces + {"type":"time"} & linux.timeOffsets = {"monotonic":{"nanosecs":1000000000}}
linux.maskedPaths = ["relative"]
linux.readonlyPaths = ["relative"]
linux.rootfsPropagation = "sideways"
linux.devices = [{"path":"/dev/x","type":"z","major":1,"minor":3}]
linux.devices = [{"path":"/dev/x","major":1,"minor":3}]
linux.devices = [{"path":"/dev/x","type":"c","major":-1,"minor":3}]
linux.devices = [{"path":"/dev/x","type":"c","major":4096,"minor":3}]
linux.devices = [{"path":"relative","type":"c","major":1,"minor":3}]
linux.devices = [{"path":"/dev/x","type":"c","major":1,"minor":3,"fileMode":65536}]
linux.devices = [{"path":"/dev/x","type":"c","major":1,"minor":3},{"path":"/dev/x","type":"c","major":1,"minor":5}]
linux.devices = [{"path":"/link/x","type":"c","major":1,"minor":3}]
linux.resources.devices = [{"allow":true,"type":"z","access":"rwm"}]
linux.resources.devices = [{"allow":true,"access":"xyz"}]
linux.resources.devices = [{"allow":true,"type":"c","major":-2,"access":"r"}]
linux.resources.memory = {"limit":-2}
linux.resources.memory = {"swap":1048576}
linux.resources.memory = {"limit":104857600,"swap":52428800}
linux.resources.memory = {"swappiness":101}
linux.resources.cpu = {"period":1}
linux.resources.cpu = {"quota":1}
linux.resources.cpu = {"realtimeRuntime":950000}
linux.resources.cpu = {"cpus":"0-"}
linux.resources.cpu = {"idle":2}
linux.resources.pids = {"limit":-2}
linux.resources.blockIO = {"weight":5}
linux.resources.blockIO = {"throttleReadBpsDevice":[{"major":-1,"minor":0,"rate":1}]}
linux.resources.hugepageLimits = [{"pageSize":"3XB","limit":1}]
linux.resources.unified = {"a/b":"1"}
linux.resources.unified = {"no.such.file":"1"}
linux.resources.unified = {"cgroup.max.depth":"5"}
linux.resources.rdma = {"":{"hcaHandles":1}}
linux.sysctl = {"no.such.sysctl":"1"}
linux.sysctl = {"net.no_such":"1"}
linux.sysctl = {"kernel.randomize_va_space":"ASLR"}
linux.sysctl = {"net.ipv4.ip_forward":"banana"}
linux.sysctl = {"":"1"}
linux.sysctl = {"kernel.domainname":"x"}
linux.sysctl = {"kernel.hostname":"x"}
linux.sysctl = {"net.ipv4/../../kernel.randomize_va_space":"ASLR"}
linux.sysctl = {"kernel.shmmax":"1"} & linux.namespaces = [{"type":"mount"},{"type":"pid"},{"type":"uts"},{"type":"network"}]
linux.seccomp = {}
linux.seccomp = {"defaultAction":"SCMP_ACT_NO_SUCH"}
linux.seccomp = {"defaultAction":"SCMP_ACT_NOTIFY"}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_NO_SUCH"]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_NO_SUCH"]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getcwd"],"action":"NO_SUCH"}]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getcwd"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getcwd"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"NO_SUCH"}]}]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}
linux.seccomp = {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}
linux.cgroupsPath = "a:b:c"
linux.personality = {"domain":"NO_SUCH"}
linux.personality = {"domain":"LINUX","flags":["X"]}
linux.mountLabel = "no_such:label"
linux.intelRdt = {"closID":"a/b"}
linux.netDevices = {"no-such-link":{"name":"x"}}
linux.memoryPolicy = {"mode":"MPOL_NO_SUCH","nodes":"0"}

# Values of a wrong type: these cases are called "type: ...".
ociVersion = 1
root.path = 7
root = []
root.readonly = "yes"
process = []
process.args = "sandbox"
process.args = [7]
process.cwd = 5
process.env = "A=b"
process.env = [7]
process.user = "root"
process.user.uid = -1
process.user.uid = 4294967296
process.user.uid = "0"
process.user.uid = 1.5
process.user.additionalGids = [-1]
process.user.umask = -1
process.user.umask = "022"
process.capabilities = ["CAP_KILL"]
process.capabilities.bounding = "CAP_KILL"
process.rlimits = {}
process.rlimits = [{"type":"RLIMIT_NOFILE","hard":-1,"soft":-1}]
process.oomScoreAdj = "0"
process.oomScoreAdj = 1.5
process.noNewPrivileges = "true"
process.noNewPrivileges = 1
process.terminal = "no"
process.consoleSize = {"height":-1,"width":1}
hostname = 5
domainname = 5
annotations = []
annotations = {"a":1}
mounts = {}
mounts = "none"
mounts + 5
mounts + {"destination":"/tmp","type":"tmpfs","source":"t","options":"ro"}
hooks = []
hooks.prestart = {}
hooks.createRuntime = [{"path":"/bin/sh","args":["sh","-c","cat >/dev/null"],"timeout":"1"}]
linux = []
linux = "none"
linux.namespaces + {"type":7}
linux.namespaces = {}
linux.uidMappings = {}
linux.gidMappings = [{"containerID":-1,"hostID":0,"size":1}]
linux.maskedPaths = "/proc/kcore"
linux.readonlyPaths = [7]
linux.rootfsPropagation = 7
linux.devices = {}
linux.devices = [{"path":"/dev/x","type":"c","major":1,"minor":"3"}]
linux.resources = []
linux.resources.devices = [{"allow":"yes"}]
linux.resources.memory = {"limit":"1G"}
linux.resources.cpu = {"shares":-1}
linux.resources.cpu = {"cpus":7}
linux.resources.pids = {"limit":"10"}
linux.resources.pids = 10
linux.resources.blockIO = {"weight":70000}
linux.resources.hugepageLimits = [{"pageSize":"2MB","limit":-1}]
linux.resources.unified = {"memory.max":5}
linux.sysctl = {"net.ipv4.ip_forward":1}
linux.seccomp = []
linux.cgroupsPath = 7
`

// dfCase is one configuration.
type dfCase struct {
	name    string
	changes []string
}

// dfCases are the default configuration, each change of it, and pairs of the
// legal ones: every second of those meets one of another field, the same one in
// every run.
func dfCases(t testing.TB) []dfCase {
	t.Helper()
	cases := []dfCase{{name: "default"}}
	legal := []string{}
	done, prefix := false, ""
	for line := range strings.Lines(dfMutations) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "#"):
			if done {
				prefix = "type: "
			}
			done = true
			continue
		case !done:
			legal = append(legal, line)
		}
		cases = append(cases, dfCase{prefix + line, strings.Split(line, " & ")})
	}
	seen := map[string]bool{}
	state := uint32(1)
	for i := 0; i < len(legal); i += 2 {
		for a := legal[i]; ; {
			state = state*1664525 + 1013904223 // Numerical Recipes
			b := legal[int(state>>8)%len(legal)]
			j := slices.Index(legal, b)
			key := fmt.Sprint(min(i, j), max(i, j))
			if dfField(a) == dfField(b) || seen[key] {
				continue
			}
			seen[key] = true
			name := a + " & " + b
			cases = append(cases, dfCase{name, strings.Split(name, " & ")})
			break
		}
	}
	names := map[string]bool{}
	for _, c := range cases {
		if names[c.name] {
			t.Errorf("two cases are called %s", c.name)
		}
		names[c.name] = true
	}
	return cases
}

// dfField is the block that a change is about: two changes of one would undo
// each other.
func dfField(line string) string {
	path, _, _ := strings.Cut(line, " ")
	if path == "linux.sysctl" {
		path = "linux.namespaces" // not to write one of the host's
	}
	parts := strings.Split(path, ".")
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// dfApply makes the changes of a case.
func dfApply(t testing.TB, config map[string]any, changes []string, host map[string]string) {
	t.Helper()
	for _, change := range changes {
		words := strings.SplitN(change, " ", 3)
		text := ""
		if len(words) == 3 {
			text = words[2]
		}
		for from, to := range host {
			text = strings.ReplaceAll(text, from, to)
		}
		var value any
		if text != "" {
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				t.Fatalf("%s: %v", change, err)
			}
		}
		keys := strings.Split(words[0], ".")
		at := config
		for _, k := range keys[:len(keys)-1] {
			next, ok := at[k].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[k] = next
			}
			at = next
		}
		last := keys[len(keys)-1]
		switch words[1] {
		case "=":
			at[last] = value
		case "+":
			list, _ := at[last].([]any)
			at[last] = append(list, value)
		case "-":
			delete(at, last)
		case "-1":
			list, _ := at[last].([]any)
			at[last] = list[:len(list)-1]
		default:
			t.Fatalf("what is %q?", change)
		}
	}
}

// dfASLR is the host's value, so that a runtime that writes it changes nothing.
func dfASLR(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/randomize_va_space")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
