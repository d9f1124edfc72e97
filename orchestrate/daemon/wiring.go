package daemon

import (
	"context"
	"net/http"
	"path/filepath"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/watch"
	"github.com/minirun/minirun/orchestrate/controller"
	"github.com/minirun/minirun/orchestrate/host"
	"github.com/minirun/minirun/orchestrate/node"
	"github.com/minirun/minirun/orchestrate/proxy"
	"github.com/minirun/minirun/orchestrate/rest"
)

// wire makes the parts of minirund and the API over them. What each of them does
// when it is made must not depend on the others running.
func (d *Daemon) wire() (http.Handler, error) {
	if err := controller.EnsureNamespaces(d.store); err != nil { // before anybody asks for them
		return nil, err
	}
	d.api = rest.New(d.store, d.registry)
	d.add("backups", d.backups)
	controllers, err := controller.New(controller.Options{Store: d.store, Log: d.o.Log, Volumes: filepath.Join(d.o.Data, "volumes")})
	if err != nil {
		return nil, err
	}
	d.add("controllers", controllers.Run)
	if !d.o.Bare {
		d.add("names", d.answerNames)
		object, err := host.New(host.Options{Store: d.store, Log: d.o.Log, Dir: d.o.Data, Version: d.o.Version})
		if err != nil {
			return nil, err
		}
		d.add("node object", object.Run)
		if err := d.host(); err != nil {
			return nil, err
		}
		d.add("service routes", d.keepRoutes)
	}
	return d.handle(d.api), nil
}

// host makes the parts that change the host.
func (d *Daemon) host() error {
	images, err := filepath.Abs(container.StoreDir(d.o.Images))
	if err != nil {
		return err
	}
	networks, err := d.network(images)
	if err != nil {
		return err
	}
	record, err := networks.Store.Network(d.o.Network)
	if err != nil {
		return err
	}
	services, err := proxy.New(proxy.Options{Store: d.store, NetNS: d.o.NetNS, Table: d.o.ServiceTable, Loopback: nameServers(record), Log: d.o.Log})
	if err != nil {
		return err
	}
	pods, err := node.New(node.Options{
		Store: d.store, Log: d.o.Log, Root: filepath.Join(d.o.Data, "node"), Images: images, Network: d.o.Network,
		CgroupParent: d.o.CgroupParent, Services: services, ClusterDNS: nameServers(record), Backoff: d.o.Backoff,
	})
	if err != nil {
		return err
	}
	d.api.Node = pods
	d.add("services", services.Run)
	d.add("pods", pods.Run)
	d.add("network rules", func(ctx context.Context) error {
		rules, err := watch.New(watch.Options{
			NetNS: d.o.NetNS, Log: d.o.Log,
			Tables: []watch.Table{{Name: network.Table, Ours: watch.ByProgram(), Repair: networks.Repair}, services.Watched()},
		})
		if err != nil {
			return err
		}
		return rules.Run(ctx)
	})
	return nil
}

func (d *Daemon) add(name string, run func(context.Context) error) {
	d.parts = append(d.parts, &part{name: name, run: run})
}
