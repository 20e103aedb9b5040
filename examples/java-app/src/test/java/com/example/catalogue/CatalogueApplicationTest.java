package com.example.catalogue;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.Test;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.boot.test.web.client.TestRestTemplate;
import org.springframework.http.HttpStatus;
import org.springframework.http.ResponseEntity;

@SpringBootTest(
        webEnvironment = SpringBootTest.WebEnvironment.RANDOM_PORT,
        properties = {"catalogue.products=300", "live-data.size-mb=1"})
class CatalogueApplicationTest {

    @Autowired
    private TestRestTemplate http;

    @Test
    void greets() {
        assertThat(get("/greeting?name=Ada").get("message").asText()).isEqualTo("Hello, Ada!");
        assertThat(get("/greeting").get("message").asText()).isEqualTo("Hello, world!");
    }

    @Test
    void searches() {
        JsonNode found = get("/catalogue/search?q=oak&limit=3");

        assertThat(found.get("total").asInt()).isGreaterThan(3);
        assertThat(found.get("products")).hasSize(3);
        int id = found.get("products").get(0).get("id").asInt();
        assertThat(get("/catalogue/products/" + id)).isEqualTo(found.get("products").get(0));
    }

    @Test
    void refusesWhatItCannotServe() {
        assertThat(status("/catalogue/search?q=oak&limit=0")).isEqualTo(HttpStatus.BAD_REQUEST);
        assertThat(status("/catalogue/search")).isEqualTo(HttpStatus.BAD_REQUEST);
        assertThat(status("/catalogue/products/301")).isEqualTo(HttpStatus.NOT_FOUND);
    }

    @Test
    void itsStateGoesOnAndHealthChecksDoNotCount() {
        JsonNode before = get("/state");
        get("/actuator/health/readiness");
        get("/greeting");
        JsonNode after = get("/state");

        assertThat(after.get("instanceId")).isEqualTo(before.get("instanceId"));
        assertThat(after.get("startedAt")).isEqualTo(before.get("startedAt"));
        assertThat(after.get("requests").asLong()).isEqualTo(before.get("requests").asLong() + 2);
        assertThat(after.get("heapUsedBytes").asLong()).isPositive();
    }

    @Test
    void answersTheProbes() {
        assertThat(get("/actuator/health/readiness").get("status").asText()).isEqualTo("UP");
        assertThat(get("/actuator/health/liveness").get("status").asText()).isEqualTo("UP");
    }

    @Test
    void checksItsLiveData() {
        JsonNode checked = get("/live-data/checksum");

        assertThat(checked.get("blocks").asInt()).isEqualTo(128);
        assertThat(checked.get("corrupt").asInt()).isZero();
        ResponseEntity<JsonNode> churned = http.postForEntity("/live-data/churn?mb=2", null, JsonNode.class);
        assertThat(churned.getBody().get("blocks").asInt()).isEqualTo(256);
        assertThat(get("/live-data/checksum")).isEqualTo(checked);
    }

    private JsonNode get(String path) {
        ResponseEntity<JsonNode> response = http.getForEntity(path, JsonNode.class);
        assertThat(response.getStatusCode()).isEqualTo(HttpStatus.OK);
        return response.getBody();
    }

    private org.springframework.http.HttpStatusCode status(String path) {
        return http.getForEntity(path, String.class).getStatusCode();
    }
}
