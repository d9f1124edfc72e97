package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/orchestrate/clock"
	"github.com/minirun/minirun/orchestrate/podlife"
	"github.com/minirun/minirun/orchestrate/store"
	"github.com/minirun/minirun/runtime"
)

// Defaults of Options.
const (
	DefaultRoot          = "/var/lib/minirun/node"
	DefaultNetwork       = "pods"
	DefaultCgroupParent  = "/minirun-pods"
	DefaultClusterDomain = "cluster.local"
	DefaultMaxPods       = 500
)

// Options of a node. Store is required; what is empty otherwise has a default.
type Options struct {
	Store *store.Store
	Log   *slog.Logger
	// Root is the directory of what the node keeps: records, logs, volumes of pods.
	Root string
	// Images is the directory of the image store, see container.StoreDir.
	Images string
	// Network is the one that pods are attached to. It must exist.
	Network string
	// CgroupParent is the group that those of pods are below.
	CgroupParent  string
	NodeName      string
	ClusterDNS    []netip.Addr
	ClusterDomain string
	Services      Services
	// Pull fetches and unpacks an image. The default has minirund do it.
	Pull    func(ctx context.Context, p Pull) error
	Backoff podlife.Backoff // of restarts; the zero value is podlife.Default
	// PullBackoff is how long is waited after the first pull that failed; then it is
	// twice as long each time.
	PullBackoff time.Duration
	// Parallel is how many containers are started at the same time.
	Parallel int
	MaxPods  int
	// PodPIDs is how many processes and threads one pod may have; 0: a quarter of what
	// the host can.
	PodPIDs int64
	// CheckEvery is how often records are compared with the kernel.
	CheckEvery time.Duration
	// MeasureEvery is how often volumes with a limit are measured, at most.
	MeasureEvery time.Duration
	// Fail, if not nil, is called at each named step that changes something: tests
	// kill the process there.
	Fail func(step string)
}

// Node runs the pods of one host.
type Node struct {
	o   Options
	log *slog.Logger

	runtime     *runtime.Store
	images      *container.Images
	podsDir     string
	boot        string
	cgroupMount string
	seesGroups  bool
	controllers map[string]bool
	capacity    corev1.ResourceList
	hostIPs     []netip.Addr
	samples     samples
	times       *clock.Memory
	fetches     fetches

	binding sync.Mutex    // held while a pod is admitted and bound
	starts  chan struct{} // one element for each start at the same time
	events  chan event

	measures chan struct{} // one element for each pod that is being measured

	mu      sync.Mutex
	workers map[types.UID]*worker
	byName  map[string]*worker // namespace/name
	// found are the containers that there were when the node began, of pods whose
	// worker has not looked at them yet.
	found map[types.UID][]string
	wg    sync.WaitGroup
}

// New makes a node, which does nothing until Run.
func New(o Options) (*Node, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	def := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	def(&o.Root, DefaultRoot)
	def(&o.Images, container.StoreDir(""))
	def(&o.Network, DefaultNetwork)
	def(&o.CgroupParent, DefaultCgroupParent)
	def(&o.ClusterDomain, DefaultClusterDomain)
	if o.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		o.NodeName = strings.ToLower(name)
	}
	if o.Services == nil {
		o.Services = NoServices{}
	}
	if o.Backoff == (podlife.Backoff{}) {
		o.Backoff = podlife.Default
	}
	if o.PullBackoff <= 0 {
		o.PullBackoff = firstPull
	}
	if o.Parallel <= 0 {
		o.Parallel = 2 * goruntime.NumCPU()
	}
	if o.CheckEvery <= 0 {
		o.CheckEvery = DefaultCheckEvery
	}
	if o.MeasureEvery <= 0 {
		o.MeasureEvery = DefaultMeasureEvery
	}
	if o.PodPIDs <= 0 {
		o.PodPIDs = defaultPodPIDs()
	}
	if o.MaxPods <= 0 {
		o.MaxPods = DefaultMaxPods
	}
	for _, dir := range []*string{&o.Root, &o.Images} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, err
		}
		*dir = abs
	}
	if o.Pull == nil {
		o.Pull = pullBySibling(o.Images)
	}
	parent, err := cgroups.CleanPath(o.CgroupParent, "pods")
	if err != nil {
		return nil, err
	}
	o.CgroupParent = parent
	_ = oomFloor() // before anything is started
	n := &Node{
		o: o, log: o.Log, images: &container.Images{Dir: o.Images}, podsDir: filepath.Join(o.Root, "pods"),
		starts: make(chan struct{}, o.Parallel), events: make(chan event, 16384), measures: make(chan struct{}, measuredAtOnce),
		workers: map[types.UID]*worker{}, byName: map[string]*worker{}, times: clock.New(nil),
	}
	if err := os.MkdirAll(n.podsDir, 0o711); err != nil {
		return nil, err
	}
	if err := os.Chmod(o.Root, 0o711); err != nil {
		return nil, err
	}
	if n.runtime, err = runtime.OpenStore(filepath.Join(o.Root, "containers")); err != nil {
		return nil, err
	}
	n.runtime.Warn = func(text string) { n.log.Warn(text) }
	if n.cgroupMount, err = cgroups.Mount(); err != nil {
		return nil, err
	}
	n.controllers, n.seesGroups = controllers(n.cgroupMount), seesGroups(n.cgroupMount)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	n.boot = strings.TrimSpace(string(boot))
	n.hostIPs = hostAddresses()
	n.capacity, err = hostCapacity(o.MaxPods)
	return n, err
}

// Capacity is what the host has for pods.
func (n *Node) Capacity() corev1.ResourceList { return n.capacity.DeepCopy() }

// HostIPs are the addresses of the host, the main one first.
func (n *Node) HostIPs() []netip.Addr { return n.hostIPs }

// Name is the node's.
func (n *Node) Name() string { return n.o.NodeName }

const goarch = goruntime.GOARCH

// point is a step that changed something.
func (n *Node) point(step string) {
	if n.o.Fail != nil {
		n.o.Fail(step)
	}
}

// hostCapacity is what the host has.
func hostCapacity(pods int) (corev1.ResourceList, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, os.NewSyscallError("sysinfo", err)
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(int64(info.Totalram)*int64(info.Unit), resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(int64(pods), resource.DecimalSI),
	}, nil
}

// hostAddresses are those that the host is reached at: the one that its default
// route uses, and one of the other family. Nothing is sent.
func hostAddresses() (list []netip.Addr) {
	add := func(a netip.Addr) {
		a = a.Unmap().WithZone("")
		for _, have := range list {
			if have.Is4() == a.Is4() {
				return
			}
		}
		list = append(list, a)
	}
	for _, far := range []string{"198.51.100.1:9", "[2001:db8::1]:9"} { // of documentation: they stand for anywhere
		if c, err := net.Dial("udp", far); err == nil {
			if a, err := netip.ParseAddrPort(c.LocalAddr().String()); err == nil && a.Addr().IsGlobalUnicast() {
				add(a.Addr())
			}
			c.Close()
		}
	}
	if len(list) > 0 {
		return list
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			add(p.Addr())
		}
	}
	if len(list) == 0 {
		list = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return list
}

// Run keeps the pods until ctx ends. Their containers run on.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer n.wg.Wait() // after cancel
	defer cancel()
	n.wg.Go(func() { n.writeEvents(ctx) })
	n.wg.Go(func() { n.checkRegularly(ctx) })
	n.wg.Go(n.cleanUp)
	for {
		err := n.watch(ctx)
		var gone *store.GoneError
		switch {
		case errors.As(err, &gone):
			n.log.Warn("changes were missed, all pods are looked at", "error", err)
		case ctx.Err() != nil, errors.Is(err, store.ErrClosed):
			return nil
		default:
			return err
		}
	}
}

// cleanUp deletes what a node that was killed had half made or half deleted of the
// file systems of containers. What a living process works on is left alone.
func (n *Node) cleanUp() {
	layers, err := n.images.Layers()
	if err == nil {
		err = layers.Cleanup()
		layers.Close()
	}
	if err != nil {
		n.log.Warn("clean up file systems of containers", "error", err)
	}
}

// watched are the kinds whose changes matter to pods.
const (
	pods       = "pods"
	events     = "events"
	configMaps = "configmaps"
	secrets    = "secrets"
	claims     = "persistentvolumeclaims"
	nodes      = "nodes"
)

// watch tells workers what changes, until that fails.
func (n *Node) watch(ctx context.Context) error {
	list, err := n.o.Store.List(pods, store.Selector{}, 0, "")
	if err != nil {
		return err
	}
	w, err := n.o.Store.Watch("", store.Selector{}, list.Revision)
	if err != nil {
		return err
	}
	if err := n.adoptAll(ctx, list.Items); err != nil {
		return err
	}
	for {
		e, err := w.Next(ctx)
		if err != nil {
			return err
		}
		switch e.Kind {
		case pods:
			n.tell(ctx, e.Object.(*corev1.Pod))
		case configMaps, secrets, claims:
			n.pokeAll(e.Object.GetNamespace())
		case nodes:
			n.pokeWaiting()
		}
	}
}

// adoptAll begins to look after all pods that there are objects or records of.
func (n *Node) adoptAll(ctx context.Context, items []store.Object) error {
	ids, err := n.runtime.IDs()
	if err != nil {
		return err
	}
	// One look for all: each worker would else go through the containers of all pods.
	found := map[types.UID][]string{}
	for _, id := range ids {
		if uid, _, _, ok := parseID(id); ok {
			found[uid] = append(found[uid], id)
		}
	}
	n.mu.Lock()
	n.found = map[types.UID][]string{}
	for uid, list := range found {
		if n.workers[uid] == nil {
			n.found[uid] = list
		}
	}
	n.mu.Unlock()
	for _, o := range items {
		n.tell(ctx, o.(*corev1.Pod))
	}
	// What is left of pods whose objects are gone.
	seen := map[types.UID]bool{}
	entries, err := os.ReadDir(n.podsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		seen[types.UID(e.Name())] = true
	}
	for uid := range found {
		seen[uid] = true
	}
	for uid := range seen {
		if !validUID(uid) {
			continue
		}
		n.mu.Lock()
		if n.workers[uid] == nil {
			n.startWorker(ctx, uid, "", "")
		}
		n.mu.Unlock()
	}
	return nil
}

// tell has a worker look at a pod.
func (n *Node) tell(ctx context.Context, pod *corev1.Pod) {
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != n.o.NodeName {
		return
	}
	if !validUID(pod.UID) {
		n.log.Error("a pod has a uid that cannot be the name of a directory", "namespace", pod.Namespace, "name", pod.Name, "uid", pod.UID)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.workers[pod.UID]
	if w == nil {
		w = n.startWorker(ctx, pod.UID, pod.Namespace, pod.Name)
	}
	w.poke()
}

// startWorker is called with the lock.
func (n *Node) startWorker(ctx context.Context, uid types.UID, namespace, name string) *worker {
	w := newWorker(n, uid, namespace, name)
	n.workers[uid] = w
	n.wg.Go(func() {
		w.run(ctx)
		n.mu.Lock()
		delete(n.workers, uid)
		n.mu.Unlock()
		if ctx.Err() == nil { // somebody may wait for what it had
			n.pokeWaiting()
		}
	})
	w.poke()
	return w
}

// pokeAll has all workers of a namespace look, or all.
func (n *Node) pokeAll(namespace string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.workers {
		if namespace == "" || w.namespace == namespace {
			w.refresh.Store(true)
			w.poke()
		}
	}
}

// pokeWaiting has those pods look again that there was no room for.
func (n *Node) pokeWaiting() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.workers {
		if w.waitsForRoom.Load() {
			w.poke()
		}
	}
}

func atoi(s string) int {
	v, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return 0
	}
	return v
}
