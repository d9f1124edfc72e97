package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/overlay"
)

// Kind is what an item is.
type Kind string

// The kinds of items.
const (
	Blob     Kind = "blob"
	Layer    Kind = "layer"
	Snapshot Kind = "snapshot"
	Lost     Kind = "lost"   // what was written to snapshots whose containers are gone
	Record   Kind = "record" // of an unpacked image, package unpacked
	Work     Kind = "work"   // in progress, or what is left of it
)

// Item is one thing in a store that stays or goes.
type Item struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"` // digest, chain ID, key, directory
	Disk int64  `json:"disk"` // bytes
	// Keep says that a collection leaves it, and Why for whom or why not.
	Keep bool     `json:"keep"`
	Why  []string `json:"why"`

	roots []imagestore.Digest // images that it belongs to
}

// Plan is what a collection would do at this moment.
type Plan struct {
	Items []Item `json:"items"`
	// Freed are the bytes of what goes.
	Freed int64 `json:"freed"`
	// Damaged says why no blob goes: it is not known what an image needs.
	Damaged error `json:"-"`

	survey *imagestore.Survey
	disk   *disk
}

// Stores are the two halves of a store of images. Layers is nil when nothing was
// unpacked yet.
type Stores struct {
	Images *imagestore.Store
	Layers *overlay.Store
	// Lost tells of a snapshot that its container cannot exist any more; nil is
	// always nil. A collection keeps what such containers have written, unless
	// RemoveLost says otherwise.
	Lost       func(overlay.SnapshotInfo) *LostContainer
	RemoveLost bool
	// Manifest is the digest of the manifest that the container of a snapshot was made
	// from, "" if that is not known; nil knows none.
	Manifest func(overlay.SnapshotInfo) string
	// Mounted is the ID of the image that a snapshot was made to mount, "" if that is
	// not known; nil knows none.
	Mounted func(overlay.SnapshotInfo) string
}

// LostContainer is a container that cannot exist any more.
type LostContainer struct {
	Record     string // where its record was
	Disposable bool   // nobody wants what it has written
}

// NewPlan looks at everything and changes nothing.
func NewPlan(ctx context.Context, s Stores) (*Plan, error) {
	if _, err := os.Lstat(s.Images.Root()); errors.Is(err, fs.ErrNotExist) {
		return &Plan{survey: &imagestore.Survey{}, disk: &disk{}}, nil
	}
	survey, err := s.Images.Survey(ctx)
	if err != nil {
		return nil, err
	}
	d, err := measure(s.Images.Root())
	if err != nil {
		return nil, fmt.Errorf("measure %q: %w", s.Images.Root(), err)
	}
	p := &Plan{survey: survey, disk: d, Damaged: survey.Damaged}
	p.blobs()
	p.ingest()
	if err := p.partials(s.Images); err != nil {
		return nil, err
	}
	if s.Layers != nil {
		if err := p.layers(s, s.Layers); err != nil {
			return nil, err
		}
		p.records()
		p.linked()
	}
	for _, i := range p.Items {
		if !i.Keep {
			p.Freed += i.Disk
		}
	}
	return p, nil
}

func (p *Plan) add(i Item) {
	if i.Why == nil {
		i.Why = []string{"nothing needs it"}
	}
	p.Items = append(p.Items, i)
}

func (p *Plan) blobs() {
	for _, b := range p.survey.Blobs {
		i := Item{Kind: Blob, Name: string(b.Digest), Disk: b.Disk, Keep: len(b.Why) > 0, Why: b.Why, roots: b.Roots}
		switch {
		case i.Keep:
		case p.Damaged != nil:
			i.Keep, i.Why = true, []string{"perhaps needed by an image that is damaged"}
		case len(b.Leases) > 0:
			// The name goes, the bytes when the lease ends.
			i.Disk = 0
			i.Why = []string{"nothing in the store needs it; its bytes stay for the " + strings.Join(b.Leases, ", ")}
		}
		p.add(i)
	}
}

func (p *Plan) ingest() {
	for _, l := range p.survey.Leases {
		i := Item{Kind: Work, Name: "ingest/" + l.Dir, Disk: p.disk.parts["ingest/"+l.Dir], Keep: l.Live, Why: []string{l.String()}}
		if !l.Live {
			i.Why = []string{"left by a process that is gone: " + l.String()}
		}
		p.add(i)
	}
}

// partials decides about parts of blobs that transfers left.
func (p *Plan) partials(images *imagestore.Store) error {
	list, err := images.Partials()
	for _, f := range list {
		i := Item{Kind: Work, Name: "partial/" + f.Name, Disk: f.Disk, Keep: f.Live, Why: []string{"a pull that is at work"}}
		if !f.Live {
			i.Why = []string{"left by a pull that was interrupted, for the next one"}
		}
		p.add(i)
	}
	return err
}

// records decides about the records of unpacked images.
func (p *Plan) records() {
	names := map[string][]string{}
	roots := map[string][]imagestore.Digest{}
	note := func(img *imagestore.Image, reason string) {
		d := img.Target.Digest
		name := "unpacked/" + d.Algorithm() + "-" + d.Hex()
		names[name] = append(names[name], reason)
		roots[name] = []imagestore.Digest{d}
	}
	for _, e := range p.survey.Entries {
		if e.Err == nil {
			note(e.Image, nameOf(&e))
		}
	}
	for _, l := range p.survey.Leases {
		for _, img := range l.Images {
			if l.Live {
				note(img, l.String())
			}
		}
	}
	var all []string
	for part := range p.disk.parts {
		if strings.HasPrefix(part, "unpacked/") {
			all = append(all, part)
		}
	}
	slices.Sort(all)
	for _, part := range all {
		p.add(Item{Kind: Record, Name: part, Disk: p.disk.parts[part], Keep: len(names[part]) > 0, Why: names[part], roots: roots[part]})
	}
}

// nameOf is the reason that an entry of index.json is.
func nameOf(e *imagestore.Entry) string {
	if e.Name == "" {
		return "image " + e.Target.Digest.Short() + " without a name"
	}
	return "name " + imagestore.Familiar(e.Name)
}

// linked sees to blobs that go while a layer stays whose archive they are: the
// name goes, the bytes when the layer does.
func (p *Plan) linked() {
	stay := map[string]bool{}
	for _, i := range p.Items {
		if i.Kind == Layer && i.Keep {
			stay[p.disk.blobs["overlay/layers/"+strings.TrimPrefix(i.Name, "sha256:")]] = true
		}
	}
	for n := range p.Items {
		i := &p.Items[n]
		if d := imagestore.Digest(i.Name); i.Kind == Blob && !i.Keep && stay["blobs/"+d.Algorithm()+"/"+d.Hex()] {
			i.Disk = 0
			i.Why = []string{"nothing in the store needs it; its bytes are an unpacked layer's too"}
		}
	}
}

// layers decides as [unpack.Prune] does.
func (p *Plan) layers(stores Stores, layers *overlay.Store) error {
	all, err := layers.Layers()
	if err != nil {
		return err
	}
	snapshots, err := layers.Snapshots()
	if err != nil {
		return err
	}
	staged, err := layers.Staging()
	if err != nil {
		return err
	}
	why := map[overlay.ChainID][]string{}
	roots := map[overlay.ChainID][]imagestore.Digest{}
	note := func(c overlay.ChainID, reason string) {
		if !slices.Contains(why[c], reason) {
			why[c] = append(why[c], reason)
		}
	}
	image := func(img *imagestore.Image, reason string) {
		for n := range img.DiffIDs {
			c := overlay.ChainID(img.ChainID(n + 1))
			note(c, reason)
			if !slices.Contains(roots[c], img.Target.Digest) {
				roots[c] = append(roots[c], img.Target.Digest)
			}
		}
	}
	for _, e := range p.survey.Entries {
		if e.Err != nil {
			continue
		}
		image(e.Image, nameOf(&e))
	}
	for _, l := range p.survey.Leases {
		for _, img := range l.Images {
			if l.Live {
				for n := range img.DiffIDs {
					note(overlay.ChainID(img.ChainID(n+1)), l.String())
				}
			}
		}
	}
	parent := map[overlay.ChainID]overlay.ChainID{}
	for _, l := range all {
		parent[l.ID] = l.Parent
	}
	below := func(c overlay.ChainID, reason string) {
		for n := 0; c != "" && n <= len(all); n++ {
			note(c, reason)
			c = parent[c]
		}
	}
	lost := map[string]*LostContainer{}
	for _, s := range snapshots {
		if lost[s.Key] = stores.lost(s); lost[s.Key] == nil {
			below(s.Parent, userOf(s.Key))
		}
	}
	for _, s := range staged {
		if s.Live {
			below(s.Parent, "work in progress (staging/"+s.Name+")")
		}
	}
	for _, l := range all {
		name := strings.TrimPrefix(string(l.ID), "sha256:")
		p.add(Item{Kind: Layer, Name: string(l.ID), Disk: p.disk.parts["overlay/layers/"+name], Keep: len(why[l.ID]) > 0, Why: why[l.ID], roots: roots[l.ID]})
	}
	for _, s := range snapshots {
		// Only the container's record knows when it goes.
		i := Item{Kind: Snapshot, Name: s.Key, Disk: p.disk.parts["overlay/snapshots/"+s.Key], Keep: true, Why: []string{userOf(s.Key)}}
		if l := lost[s.Key]; l != nil {
			wanted, err := stores.wanted(s, l)
			if err != nil {
				return err
			}
			i.Keep, i.Why = wanted, []string{l.why(s.Key)}
			if wanted {
				i.Why = append(i.Why, "what it has written moves to overlay/lost/"+s.Key)
			}
		}
		p.add(i)
	}
	retired, err := layers.Retired()
	if err != nil {
		return err
	}
	for _, r := range retired {
		i := Item{Kind: Lost, Name: r.Key, Disk: p.disk.parts["overlay/lost/"+r.Key], Keep: !stores.RemoveLost, Why: []string{"what container " + ContainerOf(r.Key) + " had written before it was lost"}}
		if i.Keep {
			i.Why = append(i.Why, "image gc --lost removes it")
		}
		p.add(i)
	}
	for _, s := range staged {
		i := Item{Kind: Work, Name: "overlay/staging/" + s.Name, Disk: p.disk.parts["overlay/staging/"+s.Name], Keep: s.Live, Why: []string{"work in progress"}}
		if !s.Live {
			i.Why = []string{"left by a process that is gone"}
		}
		p.add(i)
	}
	return nil
}

// MountKey begins the keys of snapshots of mounted images. IDs of containers have no @.
const MountKey = "@image-mount."

// MountUser stands for a mounted image where others are containers.
const MountUser = "image mount"

// userOf says for whom a snapshot is there.
func userOf(key string) string {
	if strings.HasPrefix(key, MountKey) {
		return MountUser
	}
	return "container " + ContainerOf(key)
}

// ContainerOf is the ID of the container that a snapshot was made for: its key
// has a random word behind it.
func ContainerOf(key string) string {
	if i := strings.LastIndexByte(key, '.'); i > 0 {
		return key[:i]
	}
	return key
}

// Users are the containers that were made from the image, and MountUser for each of its
// mounts, unless one of the others is the same. Of what does not tell, it is enough that
// it stands on the layers, unless one of the others has the same layers. Lost ones do not
// count.
func Users(s Stores, img *imagestore.Image, others []*imagestore.Image) ([]string, error) {
	top := overlay.ChainID(img.TopChainID())
	if s.Layers == nil || top == "" {
		return nil, nil
	}
	sameLayers, sameID := false, false
	for _, o := range others {
		if o.Manifest.Digest == img.Manifest.Digest {
			return nil, nil
		}
		sameID = sameID || o.ConfigDigest == img.ConfigDigest
		sameLayers = sameLayers || overlay.ChainID(o.TopChainID()) == top
	}
	snapshots, err := s.Layers.Snapshots()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, sn := range snapshots {
		if sn.Parent != top || s.lost(sn) != nil {
			continue
		}
		user, of, own, same := ContainerOf(sn.Key), ask(s.Manifest, sn), string(img.Manifest.Digest), false
		if strings.HasPrefix(sn.Key, MountKey) {
			user, of, own, same = MountUser, ask(s.Mounted, sn), string(img.ConfigDigest), sameID
		}
		if of == own && !same || of == "" && !sameLayers {
			ids = append(ids, user)
		}
	}
	return ids, nil
}

// ask returns what one of the functions of Stores says.
func ask(f func(overlay.SnapshotInfo) string, sn overlay.SnapshotInfo) string {
	if f == nil {
		return ""
	}
	return f(sn)
}
