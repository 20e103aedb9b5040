package com.example.shop;

import java.util.Map;
import org.springframework.stereotype.Component;

/** What the pod says about this shop. It is read at the start, and again by {@link #refresh}. */
@Component
class Settings {

    /**
     * The values of one moment.
     *
     * @param name the shop's name, from the ConfigMap
     * @param adminToken who shows it may change prices; from a Secret. Empty: nobody may
     * @param pod the pod's name
     * @param address the pod's address
     */
    record Values(String name, String adminToken, String pod, String address) {}

    private volatile Values values;

    Settings() {
        refresh();
    }

    void refresh() {
        Map<String, String> variables = PodEnvironment.read();
        values = new Values(
                variables.getOrDefault("SHOP_NAME", "Shop"),
                variables.getOrDefault("ADMIN_TOKEN", ""),
                variables.getOrDefault("POD_NAME", ""),
                variables.getOrDefault("POD_IP", ""));
    }

    Values values() {
        return values;
    }
}
