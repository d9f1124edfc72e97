package main

import (
	"encoding/json"
	"errors"

	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/overlay"
	"github.com/urfave/cli/v2"
)

// imageInfo is what `image inspect` prints of an image.
type imageInfo struct {
	ID          imagestore.Digest  `json:"id"`
	Names       []string           `json:"names"`
	Digest      imagestore.Digest  `json:"digest"` // what the names stand for
	MediaType   string             `json:"mediaType"`
	Manifest    *imagestore.Digest `json:"manifest,omitempty"` // of an index, the one that was picked
	Platform    string             `json:"platform,omitempty"`
	Platforms   []platformInfo     `json:"platforms,omitempty"` // of an index, all
	Created     string             `json:"created,omitempty"`
	Author      string             `json:"author,omitempty"`
	Size        int64              `json:"size"`
	Unpacked    bool               `json:"unpacked"`
	Layers      []layerInfo        `json:"layers"`
	Annotations map[string]string  `json:"annotations"`
	Config      json.RawMessage    `json:"config,omitempty"` // as the image has it
	Artifact    string             `json:"artifactType,omitempty"`
	Subject     imagestore.Digest  `json:"subject,omitempty"`
	Referrers   []referrerInfo     `json:"referrers"`
	Containers  []string           `json:"containers"`
}

type layerInfo struct {
	Digest      imagestore.Digest `json:"digest"`
	MediaType   string            `json:"mediaType"`
	Size        int64             `json:"size"`
	DiffID      imagestore.Digest `json:"diffId,omitempty"`
	ChainID     imagestore.Digest `json:"chainId,omitempty"`
	Unpacked    bool              `json:"unpacked"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platformInfo struct {
	Platform string            `json:"platform"`
	Digest   imagestore.Digest `json:"digest"`
	Complete bool              `json:"complete"` // all of it is in the store
}

type referrerInfo struct {
	Digest imagestore.Digest `json:"digest"`
	Type   string            `json:"artifactType"`
}

func imageInspectCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "inspect",
		Usage:     "print all that is known of images, as JSON",
		ArgsUsage: "NAME|ID...",
	}, 1, -1, func(c *cli.Context) error {
		s, closeLayers, err := openStores(c)
		if err != nil {
			return err
		}
		defer closeLayers()
		list := []*imageInfo{}
		var errs []error
		for _, ref := range c.Args().Slice() {
			info, err := inspectImage(s, ref)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			list = append(list, info)
		}
		return errors.Join(append(errs, u.json(list))...)
	})
}

func inspectImage(s inventory.Stores, ref string) (*imageInfo, error) {
	e, err := s.Images.Lookup(ref)
	if err != nil {
		return nil, err
	}
	d, err := s.Images.Describe(e)
	if err != nil {
		return nil, err
	}
	i := &imageInfo{
		ID: e.ID(), Digest: e.Target.Digest, MediaType: e.Target.MediaType, Names: d.Names, Annotations: d.Annotations, Artifact: e.Artifact(),
		Subject: d.Subject, Layers: []layerInfo{}, Referrers: []referrerInfo{}, Containers: []string{}, Config: d.Config,
	}
	for _, r := range d.Referrers {
		i.Referrers = append(i.Referrers, referrerInfo{r.Digest, r.ArtifactType})
	}
	for _, p := range d.Platforms {
		i.Platforms = append(i.Platforms, platformInfo{p.Platform.String(), p.Digest, p.Complete})
	}
	for _, l := range d.Blobs {
		i.Layers = append(i.Layers, layerInfo{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size, Annotations: l.Annotations})
		i.Size += l.Size
	}
	img := e.Image
	if img == nil {
		i.Size += e.Target.Size
		return i, nil
	}
	if img.Manifest.Digest != img.Target.Digest {
		i.Manifest = &img.Manifest.Digest
	}
	i.Platform, i.Created, i.Author, i.Size = img.Config.Platform().String(), img.Config.Created, img.Config.Author, img.Size()
	i.Unpacked = s.Layers != nil || len(img.Layers) == 0
	for n := range i.Layers {
		l := &i.Layers[n]
		l.DiffID, l.ChainID = img.DiffIDs[n], img.ChainID(n+1)
		l.Unpacked = s.Layers != nil && s.Layers.HasLayer(overlay.ChainID(l.ChainID))
		i.Unpacked = i.Unpacked && l.Unpacked
	}
	users, err := inventory.Users(s, img, nil)
	i.Containers = append(i.Containers, users...)
	return i, err
}
