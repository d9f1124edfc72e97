package inventory

import (
	"context"
	"sort"

	"github.com/minirun/minirun/imagestore"
)

// Usage is the disk use of a store. The groups' sum is Total, which is what
// du(1) says of the directory.
type Usage struct {
	Images []ImageUse `json:"images"`
	Groups []Group    `json:"groups"`
	Total  int64      `json:"total"`
}

// ImageUse is the disk use of an image: of its blobs and of what was unpacked.
type ImageUse struct {
	Names  []string          `json:"names"`
	ID     imagestore.Digest `json:"id"`
	Digest imagestore.Digest `json:"digest"`
	// Unique becomes free when the image is removed, and no container uses it.
	Unique int64 `json:"unique"`
	Shared int64 `json:"shared"` // with other images
}

// Group is all of a kind. Unused is what a collection frees now.
type Group struct {
	Kind   string `json:"kind"`
	Count  int    `json:"count"`
	Disk   int64  `json:"disk"`
	Unused int64  `json:"unused"`
}

var kinds = [...]Kind{Blob, Layer, Snapshot, Lost, Record, Work}

// NewUsage measures a store.
func NewUsage(ctx context.Context, s Stores) (*Usage, error) {
	p, err := NewPlan(ctx, s)
	if err != nil {
		return nil, err
	}
	u := &Usage{Images: []ImageUse{}, Total: p.disk.total}
	groups := map[Kind]*Group{}
	rest := u.Total
	for _, k := range kinds {
		groups[k] = &Group{Kind: string(k)}
	}
	unique, shared := map[imagestore.Digest]int64{}, map[imagestore.Digest]int64{}
	for _, i := range p.Items {
		// Of the item itself: a plan counts 0 for a blob whose bytes a lease keeps.
		n := i.Disk
		if i.Kind == Blob {
			d := imagestore.Digest(i.Name)
			n = p.disk.parts["blobs/"+d.Algorithm()+"/"+d.Hex()]
		}
		g := groups[i.Kind]
		g.Count++
		g.Disk += n
		rest -= n
		if !i.Keep {
			g.Unused += i.Disk
		}
		for _, root := range i.roots {
			if len(i.roots) == 1 {
				unique[root] += n
			} else {
				shared[root] += n
			}
		}
	}
	for _, k := range kinds {
		u.Groups = append(u.Groups, *groups[k])
	}
	u.Groups = append(u.Groups, Group{Kind: "other", Disk: rest})
	at := map[imagestore.Digest]int{}
	for _, e := range p.survey.Entries {
		i, ok := at[e.Target.Digest]
		if !ok {
			i = len(u.Images)
			at[e.Target.Digest] = i
			u.Images = append(u.Images, ImageUse{Names: []string{}, ID: e.ID(), Digest: e.Target.Digest, Unique: unique[e.Target.Digest], Shared: shared[e.Target.Digest]})
		}
		if e.Name != "" {
			u.Images[i].Names = append(u.Images[i].Names, e.Name)
		}
	}
	sort.SliceStable(u.Images, func(i, j int) bool {
		return u.Images[i].Unique+u.Images[i].Shared > u.Images[j].Unique+u.Images[j].Shared
	})
	return u, nil
}
