// Serve images lazily, as the programs of the stargz snapshotter do. Those are in a module of their own, which the module
// proxy does not have.
//
//	stargz snapshotter SETTINGS SOCKET ROOT      the stargz snapshotter, for containerd
//	stargz store SETTINGS MOUNTPOINT ROOT        Stargz Store, for CRI-O
package main

import (
	"context"
	"encoding/json"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/metadata/memory"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"github.com/containerd/stargz-snapshotter/store"
	"google.golang.org/grpc"
)

func main() {
	var config service.Config
	text, err := os.ReadFile(os.Args[2])
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err == nil {
		serve := map[string]func(*service.Config, string, string) error{"snapshotter": serveSnapshotter, "store": serveStore}
		err = serve[os.Args[1]](&config, os.Args[3], os.Args[4])
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serveSnapshotter(config *service.Config, socket, root string) error {
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), root, config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshots.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	return server.Serve(listener)
}

func serveStore(config *service.Config, mountpoint, root string) error {
	ctx := context.Background()
	hosts := resolver.RegistryHostsFromConfig(resolver.Config(config.ResolverConfig))
	manager, err := store.NewLayerManager(ctx, root, hosts, memory.NewReader, config.Config)
	if err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	if err := store.Mount(ctx, mountpoint, manager, false); err != nil {
		return err
	}
	<-ended
	return syscall.Unmount(mountpoint, syscall.MNT_DETACH)
}
